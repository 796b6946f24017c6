//! Initial access tokens by which clients register themselves, and what a registration adds to a
//! client. Neither has a token in it: a token names a row and bears a digest of its own.

use keyrelay_core::id::{ClientId, ProjectId, RegistrationGrantId, ResourceId};
use keyrelay_core::limits::REGISTRATION_GRANTS_PER_PROJECT_MAX;
use keyrelay_core::registration::{AuthMethod, Registration, RegistrationBounds};
use keyrelay_core::time::Timestamp;

use crate::access::scope_bound;
use crate::change::args;
use crate::database::{Arg, Row};
use crate::{Change, Conflict, Store, StoreError};

/// What an initial access token allows (RFC 7591 §3).
#[derive(Clone, Debug)]
pub struct RegistrationGrant {
    /// Its id, which the token names.
    pub id: RegistrationGrantId,
    /// The project that clients are registered in.
    pub project: ProjectId,
    /// The policy that their memberships are put under.
    pub policy: Option<ResourceId>,
    /// What they may be.
    pub bounds: RegistrationBounds,
    /// Until when it works.
    pub expires: Timestamp,
    /// How many clients it may still register.
    pub uses_left: i64,
}

const GRANT_COLUMNS: &str = "id, project_id, policy_id, grant_types, scope, expires, uses_left";

fn read_grant(row: &Row) -> Result<RegistrationGrant, StoreError> {
    Ok(RegistrationGrant {
        id: row.id(0, RegistrationGrantId::parse, "registration_grant.id")?,
        project: row.id(1, ProjectId::parse, "registration_grant.project_id")?,
        policy: row.opt_id(2, ResourceId::parse, "registration_grant.policy_id")?,
        bounds: read_bounds(row, 3)?,
        expires: Timestamp::from_epoch_ms(row.int(5)?),
        uses_left: row.int(6)?,
    })
}

/// Reads bounds from two columns.
fn read_bounds(row: &Row, at: usize) -> Result<RegistrationBounds, StoreError> {
    Ok(RegistrationBounds {
        grant_types: row.opt_text(at)?.map(|types| types.split(' ').map(str::to_owned).collect()),
        scope: scope_bound(row.opt_text(at + 1)?)?,
    })
}

fn bounds_args(bounds: &RegistrationBounds) -> Vec<Arg> {
    args![
        bounds.grant_types.as_ref().map(|types| types.join(" ")),
        bounds.scope.as_ref().map(|scope| scope.as_str().to_owned()),
    ]
}

impl Store {
    /// What an initial access token allows, also one that is used up or past its time.
    pub async fn registration_grant(
        &self,
        id: RegistrationGrantId,
    ) -> Result<Option<RegistrationGrant>, StoreError> {
        let sql = format!("SELECT {GRANT_COLUMNS} FROM registration_grant WHERE id = $1");
        self.0.database.fetch_access(sql, args![id]).await?.first().map(read_grant).transpose()
    }

    /// The initial access tokens of a project that still work, those that end first before the others.
    pub async fn registration_grants(
        &self,
        project: ProjectId,
        now: Timestamp,
    ) -> Result<Vec<RegistrationGrant>, StoreError> {
        let sql = format!(
            "SELECT {GRANT_COLUMNS} FROM registration_grant WHERE project_id = $1 AND expires > $2 AND uses_left > 0 \
             ORDER BY expires, id LIMIT $3"
        );
        let most = i64::try_from(REGISTRATION_GRANTS_PER_PROJECT_MAX).unwrap_or(i64::MAX);
        let rows = self.0.database.fetch(sql, args![project, now, most]).await?;
        rows.iter().map(read_grant).collect()
    }

    /// What the registration of a client added to it; none where an admin made it.
    pub async fn registration(&self, client: ClientId) -> Result<Option<Registration>, StoreError> {
        let sql = "SELECT client_id, generation, auth_method, grant_types, scope, registered \
                   FROM client_registration WHERE client_id = $1";
        let rows = self.0.database.fetch_access(sql, args![client]).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let corrupt = |what| StoreError::Corrupt { what };
        Ok(Some(Registration {
            client: row.id(0, ClientId::parse, "client_registration.client_id")?,
            generation: u32::try_from(row.int(1)?).map_err(|_| corrupt("client_registration.generation"))?,
            auth_method: AuthMethod::parse(&row.text(2)?)
                .ok_or(corrupt("client_registration.auth_method"))?,
            bounds: read_bounds(row, 3)?,
            registered: Timestamp::from_epoch_ms(row.int(5)?),
        }))
    }
}

impl Change {
    /// Keeps what an initial access token allows.
    pub fn create_registration_grant(&mut self, grant: &RegistrationGrant) {
        let mut args = bounds_args(&grant.bounds);
        args.extend(args![grant.id, grant.project, grant.policy, grant.expires, grant.uses_left]);
        self.push(
            "INSERT INTO registration_grant (grant_types, scope, id, project_id, policy_id, expires, uses_left) \
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
            args,
            Some(Conflict::Id),
        );
    }

    /// Uses an initial access token once. It binds the change as [`Change::require`] does: a token that
    /// was used up, revoked or outlived meanwhile, or whose project was switched off, changes nothing.
    pub fn use_registration_grant(&mut self, id: RegistrationGrantId, now: Timestamp) {
        self.push(
            "UPDATE registration_grant SET uses_left = uses_left - 1 \
             WHERE id = $1 AND uses_left > 0 AND expires > $2 \
             AND EXISTS (SELECT 1 FROM project p WHERE p.id = registration_grant.project_id AND p.active)",
            args![id, now],
            Some(Conflict::Caller),
        );
    }

    /// Ends an initial access token of a project. A conflict if there is none.
    pub fn delete_registration_grant(&mut self, id: RegistrationGrantId, project: ProjectId) {
        self.push(
            "DELETE FROM registration_grant WHERE id = $1 AND project_id = $2",
            args![id, project],
            Some(Conflict::Version),
        );
    }

    /// Keeps what a registration adds to a client. The scope that binds it is in the client's own row, too:
    /// that is what is read with every request.
    pub fn create_registration(&mut self, registration: &Registration) {
        if let Some(scope) = &registration.bounds.scope {
            self.push(
                "UPDATE client SET scope_bound = $1 WHERE id = $2",
                args![scope.as_str(), registration.client],
                Some(Conflict::Version),
            );
        }
        let mut args = bounds_args(&registration.bounds);
        args.extend(args![
            registration.client,
            i64::from(registration.generation),
            registration.auth_method.as_str(),
            registration.registered,
        ]);
        self.push(
            "INSERT INTO client_registration (grant_types, scope, client_id, generation, auth_method, registered) \
             VALUES ($1, $2, $3, $4, $5, $6)",
            args,
            Some(Conflict::Id),
        );
    }

    /// Changes a registration, and makes the change depend on the token that was current when it was
    /// decided, `generation`.
    pub fn update_registration(&mut self, registration: &Registration, generation: u32) {
        self.push(
            "UPDATE client_registration SET generation = $1, auth_method = $2 \
             WHERE client_id = $3 AND generation = $4",
            args![
                i64::from(registration.generation),
                registration.auth_method.as_str(),
                registration.client,
                i64::from(generation),
            ],
            Some(Conflict::Caller),
        );
    }

    /// Ends the registration access token of a client, if it registered itself: nobody manages it by that any more.
    pub fn end_registration_token(&mut self, client: ClientId) {
        self.push(
            "UPDATE client_registration SET generation = generation + 1 WHERE client_id = $1",
            args![client],
            None,
        );
    }

    /// Bounds a client that registered itself to what an admin wrote; what is `None` stays as it was. Nothing
    /// happens to any other client.
    pub fn bound_registration(
        &mut self,
        client: ClientId,
        grant_types: Option<&[String]>,
        scope: Option<&str>,
    ) {
        if let Some(scope) = scope {
            self.push(
                "UPDATE client SET scope_bound = $1 WHERE id = $2 \
                 AND EXISTS (SELECT 1 FROM client_registration g WHERE g.client_id = client.id)",
                args![scope, client],
                None,
            );
        }
        self.push(
            "UPDATE client_registration SET grant_types = COALESCE($1, grant_types), scope = COALESCE($2, scope) \
             WHERE client_id = $3",
            args![grant_types.map(|types| types.join(" ")), scope.map(str::to_owned), client],
            None,
        );
    }
}
