"""How calls travel between services. Private to `autogpt_server.utils.service`, which is what everyone else imports.

`exposure` says what may be called, `codec` turns values into bytes, `handshake` decides who may connect, `transport` is
the only module that knows Pyro5, `endpoint` answers calls and `client` makes them.
"""
