-- Who else has a profile is looked up whenever a membership takes one.
CREATE INDEX membership_of_profile ON membership (project_id, profile_type, profile_id);
