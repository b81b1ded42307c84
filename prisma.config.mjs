// Configuration of the Prisma CLI, which is used to author and check migrations (`make migration`, `make migration-check`).
//
// `engine: 'js'` selects the schema engine that ships as WebAssembly inside the npm package `prisma`, so nothing is
// downloaded from Prisma's servers. It reaches SQLite through a driver adapter; libsql's comes with prebuilt binaries in
// its npm packages. The server itself applies migrations without any of this (autogpt_server/data).
import { PrismaLibSQL } from '@prisma/adapter-libsql'

// The engine applies a whole migration file with one executeRaw(), of which libsql would run the first statement only.
function runWholeScripts(connection) {
  const executeRaw = connection.executeRaw.bind(connection)
  connection.executeRaw = async (query) => {
    if (query.args.length > 0) return executeRaw(query)
    await connection.executeScript(query.sql)
    return 0
  }
  return connection
}

class SqliteAdapter extends PrismaLibSQL {
  async connect() {
    return runWholeScripts(await super.connect())
  }

  async connectToShadowDb() {
    return runWholeScripts(await super.connectToShadowDb())
  }
}

export default {
  experimental: { adapter: true },
  engine: 'js',
  schema: 'schema.prisma',
  migrations: { path: 'migrations' },
  adapter: async () => new SqliteAdapter({ url: process.env.DATABASE_URL ?? 'file:./autogpt.db' }),
}
