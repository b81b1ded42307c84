"""The logical model that is persisted: the only package that touches Prisma or a database."""
