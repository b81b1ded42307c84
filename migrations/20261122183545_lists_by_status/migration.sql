-- The runs of a graph that have a status, newest first; how many of them are active.
CREATE INDEX "AgentGraphExecution_agentGraphId_status_id_idx" ON "AgentGraphExecution"("agentGraphId", "status", "id");

-- The schedules of a graph, newest first.
DROP INDEX "AgentGraphExecutionSchedule_agentGraphId_idx";
CREATE INDEX "AgentGraphExecutionSchedule_agentGraphId_id_idx" ON "AgentGraphExecutionSchedule"("agentGraphId", "id");

-- Who uses a large value, when one of its users is deleted. Partial, so that other rows do not pay for it; the Prisma schema cannot say so, and Prisma
-- leaves such an index alone.
CREATE INDEX "AgentNodeExecutionInputOutput_valueHash_idx" ON "AgentNodeExecutionInputOutput"("valueHash") WHERE "valueHash" IS NOT NULL;
