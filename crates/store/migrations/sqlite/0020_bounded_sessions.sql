-- A person has at most a hundred open logins, and as many that are not finished or have ended (store/src/sessions.rs).
-- Of more, those that were used last stay.
DELETE FROM session WHERE id IN (
  SELECT id FROM (
    SELECT id, ROW_NUMBER() OVER (
      PARTITION BY user_id, CASE WHEN stage = 'granted' THEN 1 ELSE 0 END
      ORDER BY CASE WHEN stage = 'ended' THEN 1 ELSE 0 END, rotated DESC, id
    ) AS nth
    FROM session
  ) AS ranked WHERE nth > 100
);
