-- When the retiring secret ends by itself. Nothing runs then: whoever reads it compares it with the clock.
ALTER TABLE client ADD COLUMN retiring_ends BIGINT;
-- Who made each secret, as a reference; NULL where that is not known.
ALTER TABLE client ADD COLUMN active_by TEXT;
ALTER TABLE client ADD COLUMN retiring_by TEXT;
