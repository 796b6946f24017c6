-- How often a server has written down what it counted. Each time it must be where the server left it, so that
-- of two attempts at one flush only one is made.
ALTER TABLE usage_mark ADD COLUMN flushes BIGINT NOT NULL DEFAULT 0;
-- When it was found that the server had ended out of order; NULL while it may be at work.
ALTER TABLE usage_mark ADD COLUMN ended BIGINT;
-- Sums of secrets that have ended are forgotten when they were not presented for long.
CREATE INDEX secret_usage_by_end ON secret_usage (last_used);
