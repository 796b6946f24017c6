-- The scope that a registration binds a client to, where it is read with every request.
ALTER TABLE client ADD COLUMN scope_bound TEXT;
UPDATE client SET scope_bound = (SELECT r.scope FROM client_registration r WHERE r.client_id = client.id);
