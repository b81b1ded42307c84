-- CreateTable
CREATE TABLE "AgentGraph" (
    "id" TEXT NOT NULL,
    "version" INTEGER NOT NULL DEFAULT 1,
    "name" TEXT NOT NULL DEFAULT '',
    "description" TEXT NOT NULL DEFAULT '',
    "isActive" BOOLEAN NOT NULL DEFAULT true,
    "metadata" TEXT NOT NULL DEFAULT '{}',
    "createdAt" DATETIME NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "archivedAt" DATETIME,

    PRIMARY KEY ("id", "version")
);

-- CreateTable
CREATE TABLE "AgentNode" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "agentGraphId" TEXT NOT NULL,
    "agentGraphVersion" INTEGER NOT NULL,
    "agentBlockId" TEXT NOT NULL,
    "position" INTEGER NOT NULL,
    "key" TEXT NOT NULL,
    "constantInput" TEXT NOT NULL DEFAULT '{}',
    "metadata" TEXT NOT NULL DEFAULT '{}',
    CONSTRAINT "AgentNode_agentGraphId_agentGraphVersion_fkey" FOREIGN KEY ("agentGraphId", "agentGraphVersion") REFERENCES "AgentGraph" ("id", "version") ON DELETE CASCADE ON UPDATE CASCADE,
    CONSTRAINT "AgentNode_agentBlockId_fkey" FOREIGN KEY ("agentBlockId") REFERENCES "AgentBlock" ("id") ON DELETE RESTRICT ON UPDATE CASCADE
);

-- CreateTable
CREATE TABLE "AgentNodeLink" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "agentNodeSourceId" TEXT NOT NULL,
    "sourceName" TEXT NOT NULL,
    "agentNodeSinkId" TEXT NOT NULL,
    "sinkName" TEXT NOT NULL,
    "isStatic" BOOLEAN NOT NULL DEFAULT false,
    "position" INTEGER NOT NULL,
    CONSTRAINT "AgentNodeLink_agentNodeSourceId_fkey" FOREIGN KEY ("agentNodeSourceId") REFERENCES "AgentNode" ("id") ON DELETE CASCADE ON UPDATE CASCADE,
    CONSTRAINT "AgentNodeLink_agentNodeSinkId_fkey" FOREIGN KEY ("agentNodeSinkId") REFERENCES "AgentNode" ("id") ON DELETE CASCADE ON UPDATE CASCADE
);

-- CreateTable
CREATE TABLE "AgentBlock" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "name" TEXT NOT NULL,
    "inputSchema" TEXT NOT NULL,
    "outputSchema" TEXT NOT NULL
);

-- CreateTable
CREATE TABLE "AgentGraphExecution" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "agentGraphId" TEXT NOT NULL,
    "agentGraphVersion" INTEGER NOT NULL,
    "status" TEXT NOT NULL DEFAULT 'QUEUED',
    "reason" TEXT,
    "errorCode" TEXT,
    "errorMessage" TEXT,
    "epoch" INTEGER NOT NULL DEFAULT 0,
    "seq" INTEGER NOT NULL DEFAULT 0,
    "closing" TEXT,
    "cancelRequestedAt" DATETIME,
    "wakeAt" DATETIME,
    "inboxLast" INTEGER NOT NULL DEFAULT 0,
    "inboxDone" INTEGER NOT NULL DEFAULT 0,
    "workerId" TEXT,
    "takeovers" INTEGER NOT NULL DEFAULT 0,
    "priority" INTEGER NOT NULL DEFAULT 0,
    "input" TEXT NOT NULL DEFAULT '{}',
    "stats" TEXT NOT NULL DEFAULT '{}',
    "idempotencyKey" TEXT,
    "requestHash" TEXT,
    "scheduleId" TEXT,
    "rerunOfId" TEXT,
    "parentExecutionId" TEXT,
    "parentAttempt" INTEGER,
    "parentRunId" TEXT,
    "depth" INTEGER NOT NULL DEFAULT 0,
    "limits" TEXT,
    "createdAt" DATETIME NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "startedAt" DATETIME,
    "endedAt" DATETIME,
    CONSTRAINT "AgentGraphExecution_agentGraphId_agentGraphVersion_fkey" FOREIGN KEY ("agentGraphId", "agentGraphVersion") REFERENCES "AgentGraph" ("id", "version") ON DELETE RESTRICT ON UPDATE CASCADE,
    CONSTRAINT "AgentGraphExecution_scheduleId_fkey" FOREIGN KEY ("scheduleId") REFERENCES "AgentGraphExecutionSchedule" ("id") ON DELETE SET NULL ON UPDATE CASCADE
);

-- CreateTable
CREATE TABLE "AgentRunInboxEntry" (
    "runId" TEXT NOT NULL,
    "number" INTEGER NOT NULL,
    "kind" TEXT NOT NULL,
    "nodeExecutionId" TEXT,
    "key" TEXT,
    "payload" TEXT NOT NULL DEFAULT '{}',
    "createdAt" DATETIME NOT NULL DEFAULT CURRENT_TIMESTAMP,

    PRIMARY KEY ("runId", "number"),
    CONSTRAINT "AgentRunInboxEntry_runId_fkey" FOREIGN KEY ("runId") REFERENCES "AgentGraphExecution" ("id") ON DELETE CASCADE ON UPDATE CASCADE
);

-- CreateTable
CREATE TABLE "AgentNodeExecution" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "agentGraphExecutionId" TEXT NOT NULL,
    "agentNodeId" TEXT NOT NULL,
    "status" TEXT NOT NULL,
    "ordinal" INTEGER,
    "attempt" INTEGER NOT NULL DEFAULT 0,
    "seq" INTEGER NOT NULL,
    "addedSeq" INTEGER NOT NULL,
    "queuedSeq" INTEGER,
    "startedSeq" INTEGER,
    "endedSeq" INTEGER,
    "errorCode" TEXT,
    "error" TEXT,
    "mixedOrigin" BOOLEAN NOT NULL DEFAULT false,
    "origins" TEXT,
    "addedAt" DATETIME NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "queuedAt" DATETIME,
    "startedAt" DATETIME,
    "endedAt" DATETIME,
    "notBefore" DATETIME,
    "retries" INTEGER NOT NULL DEFAULT 0,
    "waitsFor" TEXT,
    "childRunId" TEXT,
    "resumed" TEXT,
    "firstOutput" INTEGER NOT NULL DEFAULT 0,
    "signals" TEXT,
    "replayOfId" TEXT,
    CONSTRAINT "AgentNodeExecution_agentGraphExecutionId_fkey" FOREIGN KEY ("agentGraphExecutionId") REFERENCES "AgentGraphExecution" ("id") ON DELETE CASCADE ON UPDATE CASCADE,
    CONSTRAINT "AgentNodeExecution_agentNodeId_fkey" FOREIGN KEY ("agentNodeId") REFERENCES "AgentNode" ("id") ON DELETE RESTRICT ON UPDATE CASCADE
);

-- CreateTable
CREATE TABLE "AgentNodeExecutionAttempt" (
    "agentNodeExecutionId" TEXT NOT NULL,
    "attempt" INTEGER NOT NULL,
    "outcome" TEXT NOT NULL,
    "errorCode" TEXT,
    "error" TEXT,
    "startedAt" DATETIME,
    "endedAt" DATETIME NOT NULL,

    PRIMARY KEY ("agentNodeExecutionId", "attempt"),
    CONSTRAINT "AgentNodeExecutionAttempt_agentNodeExecutionId_fkey" FOREIGN KEY ("agentNodeExecutionId") REFERENCES "AgentNodeExecution" ("id") ON DELETE CASCADE ON UPDATE CASCADE
);

-- CreateTable
CREATE TABLE "AgentNodeExecutionInputOutput" (
    "agentNodeExecutionId" TEXT NOT NULL,
    "role" TEXT NOT NULL,
    "ordinal" INTEGER NOT NULL,
    "name" TEXT NOT NULL,
    "data" TEXT,
    "valueHash" TEXT,
    "sourceExecutionId" TEXT,
    "sourceOrdinal" INTEGER,
    "sourcePart" TEXT,
    "seq" INTEGER,
    "releasedSeq" INTEGER,

    PRIMARY KEY ("agentNodeExecutionId", "role", "ordinal"),
    CONSTRAINT "AgentNodeExecutionInputOutput_agentNodeExecutionId_fkey" FOREIGN KEY ("agentNodeExecutionId") REFERENCES "AgentNodeExecution" ("id") ON DELETE CASCADE ON UPDATE CASCADE,
    CONSTRAINT "AgentNodeExecutionInputOutput_valueHash_fkey" FOREIGN KEY ("valueHash") REFERENCES "AgentValue" ("hash") ON DELETE SET NULL ON UPDATE CASCADE
);

-- CreateTable
CREATE TABLE "AgentValue" (
    "hash" TEXT NOT NULL PRIMARY KEY,
    "data" TEXT NOT NULL,
    "sizeBytes" INTEGER NOT NULL,
    "createdAt" DATETIME NOT NULL DEFAULT CURRENT_TIMESTAMP
);

-- CreateTable
CREATE TABLE "AgentGraphExecutionSchedule" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "agentGraphId" TEXT NOT NULL,
    "agentGraphVersion" INTEGER,
    "name" TEXT NOT NULL DEFAULT '',
    "cron" TEXT,
    "at" DATETIME,
    "timezone" TEXT NOT NULL DEFAULT 'UTC',
    "inputData" TEXT NOT NULL DEFAULT '{}',
    "isEnabled" BOOLEAN NOT NULL DEFAULT true,
    "catchUp" TEXT NOT NULL DEFAULT 'latest',
    "overlap" TEXT NOT NULL DEFAULT 'skip',
    "startsAt" DATETIME,
    "endsAt" DATETIME,
    "jitterS" REAL NOT NULL DEFAULT 0,
    "revision" INTEGER NOT NULL DEFAULT 0,
    "accountedUntil" DATETIME NOT NULL,
    "nextDueAt" DATETIME,
    "createdAt" DATETIME NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "updatedAt" DATETIME NOT NULL
);

-- CreateTable
CREATE TABLE "AgentScheduleOccurrence" (
    "scheduleId" TEXT NOT NULL,
    "dueAt" DATETIME NOT NULL,
    "status" TEXT NOT NULL,
    "runId" TEXT,
    "reasonCode" TEXT,
    "reason" TEXT,
    "createdAt" DATETIME NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "startedAt" DATETIME,

    PRIMARY KEY ("scheduleId", "dueAt"),
    CONSTRAINT "AgentScheduleOccurrence_scheduleId_fkey" FOREIGN KEY ("scheduleId") REFERENCES "AgentGraphExecutionSchedule" ("id") ON DELETE CASCADE ON UPDATE CASCADE,
    CONSTRAINT "AgentScheduleOccurrence_runId_fkey" FOREIGN KEY ("runId") REFERENCES "AgentGraphExecution" ("id") ON DELETE SET NULL ON UPDATE CASCADE
);

-- CreateIndex
CREATE INDEX "AgentGraph_isActive_id_idx" ON "AgentGraph"("isActive", "id");

-- CreateIndex
CREATE UNIQUE INDEX "AgentNode_agentGraphId_agentGraphVersion_position_key" ON "AgentNode"("agentGraphId", "agentGraphVersion", "position");

-- CreateIndex
CREATE INDEX "AgentNodeLink_agentNodeSourceId_idx" ON "AgentNodeLink"("agentNodeSourceId");

-- CreateIndex
CREATE INDEX "AgentNodeLink_agentNodeSinkId_idx" ON "AgentNodeLink"("agentNodeSinkId");

-- CreateIndex
CREATE INDEX "AgentGraphExecution_agentGraphId_id_idx" ON "AgentGraphExecution"("agentGraphId", "id");

-- CreateIndex
CREATE INDEX "AgentGraphExecution_status_priority_id_idx" ON "AgentGraphExecution"("status", "priority" DESC, "id");

-- CreateIndex
CREATE INDEX "AgentGraphExecution_wakeAt_idx" ON "AgentGraphExecution"("wakeAt");

-- CreateIndex
CREATE INDEX "AgentGraphExecution_scheduleId_status_idx" ON "AgentGraphExecution"("scheduleId", "status");

-- CreateIndex
CREATE UNIQUE INDEX "AgentGraphExecution_agentGraphId_idempotencyKey_key" ON "AgentGraphExecution"("agentGraphId", "idempotencyKey");

-- CreateIndex
CREATE UNIQUE INDEX "AgentGraphExecution_parentExecutionId_parentAttempt_key" ON "AgentGraphExecution"("parentExecutionId", "parentAttempt");

-- CreateIndex
CREATE UNIQUE INDEX "AgentRunInboxEntry_runId_kind_nodeExecutionId_key_key" ON "AgentRunInboxEntry"("runId", "kind", "nodeExecutionId", "key");

-- CreateIndex
CREATE INDEX "AgentNodeExecution_agentGraphExecutionId_seq_idx" ON "AgentNodeExecution"("agentGraphExecutionId", "seq");

-- CreateIndex
CREATE INDEX "AgentNodeExecution_agentGraphExecutionId_id_idx" ON "AgentNodeExecution"("agentGraphExecutionId", "id");

-- CreateIndex
CREATE INDEX "AgentGraphExecutionSchedule_agentGraphId_idx" ON "AgentGraphExecutionSchedule"("agentGraphId");

-- CreateIndex
CREATE INDEX "AgentGraphExecutionSchedule_isEnabled_nextDueAt_idx" ON "AgentGraphExecutionSchedule"("isEnabled", "nextDueAt");

-- CreateIndex
CREATE UNIQUE INDEX "AgentScheduleOccurrence_runId_key" ON "AgentScheduleOccurrence"("runId");

-- CreateIndex
CREATE INDEX "AgentScheduleOccurrence_status_scheduleId_idx" ON "AgentScheduleOccurrence"("status", "scheduleId");
