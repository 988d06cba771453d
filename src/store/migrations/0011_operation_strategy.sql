-- Which servers were meant, in the words of the one who began it (JSON).
ALTER TABLE operations ADD COLUMN selector TEXT NOT NULL DEFAULT '{}';
-- How it goes over its servers (JSON).
ALTER TABLE operations ADD COLUMN strategy TEXT NOT NULL DEFAULT '{}';
-- The operation whose targets it tries again.
ALTER TABLE operations ADD COLUMN retry_of TEXT;
-- 1: what is stored of the action is all of it, so it can be begun again.
ALTER TABLE operations ADD COLUMN is_repeatable INTEGER NOT NULL DEFAULT 0;
-- Since when nothing more is sent because a person said so.
ALTER TABLE operations ADD COLUMN paused_at INTEGER;
-- Why nothing more was sent: the failure limit, or servers that did not become healthy.
ALTER TABLE operations ADD COLUMN halted TEXT;

ALTER TABLE operation_targets ADD COLUMN batch INTEGER NOT NULL DEFAULT 0;
ALTER TABLE operation_targets ADD COLUMN started_at INTEGER;
ALTER TABLE operation_targets ADD COLUMN completed_at INTEGER;
