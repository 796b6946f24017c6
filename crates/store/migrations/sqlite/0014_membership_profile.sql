-- Who else has a profile is looked up whenever a membership takes one.
CREATE INDEX membership_of_profile ON membership (project_id, profile_type, profile_id);
INSERT INTO sqlite_stat1 (tbl, idx, stat) VALUES
  ('membership', 'membership_of_profile', '1000000 500 500 1');
