// Loaded into Node by NODE_OPTIONS=--require: writes every connection and name lookup to $NETWORK_RECORD, one per line.
const dns = require('node:dns')
const fs = require('node:fs')
const net = require('node:net')

const record = (text) => fs.appendFileSync(process.env.NETWORK_RECORD, `node ${text}\n`)

const connect = net.Socket.prototype.connect
net.Socket.prototype.connect = function (...args) {
  const options = Array.isArray(args[0]) ? args[0][0] : args[0]
  record(`connect ${JSON.stringify({ host: options?.host, port: options?.port, path: options?.path })}`)
  return connect.apply(this, args)
}

const lookup = dns.lookup
dns.lookup = function (name, ...args) {
  record(`lookup ${name}`)
  return lookup.call(this, name, ...args)
}
