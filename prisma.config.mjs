// Configuration of the Prisma CLI, however it is called (make, `poetry run prisma`, npx): it makes the CLI work from package
// registries alone. The server itself needs neither the CLI nor Node.
//
// Before most commands the CLI downloads native engines from Prisma's own servers, which mirrors of the registries do not
// carry. None is needed here. `generate` only hands the parsed schema (the parser is WebAssembly inside the npm package) to
// Prisma Client Python; migrations use the schema engine that is WebAssembly in the same package (`engine: 'js'`), with
// libsql as its driver, whose binaries come inside npm packages; queries run in autogpt_server/data/engine.
import 'dotenv/config'
import { PrismaLibSQL } from '@prisma/adapter-libsql'

// An engine whose path is given is not downloaded. Of one that it does not use the CLI asks no more than `--version`.
for (const engine of ['QUERY_ENGINE_BINARY', 'QUERY_ENGINE_LIBRARY', 'SCHEMA_ENGINE_BINARY']) {
  process.env[`PRISMA_${engine}`] ??= process.execPath
}
// The database is the server's: from the environment, .env, or the default of autogpt_server/utils/settings.py.
process.env.DATABASE_URL ??= 'file:./autogpt.db'
// No check for new versions, which reports how the CLI is used.
process.env.CHECKPOINT_DISABLE ??= '1'
process.env.PRISMA_HIDE_UPDATE_MESSAGE ??= '1'

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
  adapter: async () => new SqliteAdapter({ url: process.env.DATABASE_URL }),
}
