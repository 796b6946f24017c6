//! What the demonstration asks of the server, as any client would: over HTTP, with JSON.

use std::fs;
use std::path::Path;

use anyhow::{Context, bail};
use keyrelay_core::secret::PlainSecret;
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use zeroize::Zeroizing;

/// The id and the secret of a client application.
#[derive(Debug)]
pub struct ClientCredentials {
    /// The id.
    pub id: String,
    /// The secret.
    pub secret: PlainSecret,
}

impl ClientCredentials {
    /// From the file that the first start writes.
    pub fn from_bootstrap(file: &Path) -> anyhow::Result<Self> {
        let text = Zeroizing::new(
            fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?,
        );
        Self::from_json(&serde_json::from_str(&text)?, "clientId", "clientSecret")
    }

    fn from_json(value: &Value, id: &str, secret: &str) -> anyhow::Result<Self> {
        Ok(Self { id: text(value, id)?, secret: secret_in(value, secret)? })
    }
}

fn text(value: &Value, name: &str) -> anyhow::Result<String> {
    Ok(value
        .get(name)
        .and_then(Value::as_str)
        .with_context(|| format!("the answer has no {name}"))?
        .to_owned())
}

fn secret_in(value: &Value, name: &str) -> anyhow::Result<PlainSecret> {
    PlainSecret::presented(Zeroizing::new(text(value, name)?))
        .with_context(|| format!("the answer's {name} is no secret"))
}

/// The server as its clients see it.
#[derive(Clone, Debug)]
pub struct Api {
    base: String,
    http: reqwest::Client,
}

impl Api {
    /// A client of the server at `base`, which ends with `/`.
    pub fn new(base: &str) -> anyhow::Result<Self> {
        // The server is in this process and speaks plain HTTP: certificates need not even be there.
        let http = reqwest::Client::builder().no_proxy().tls_certs_only([]).build();
        let http = http.context("cannot make an HTTP client")?;
        Ok(Self { base: base.to_owned(), http })
    }

    fn request(&self, method: Method, path: &str, who: &ClientCredentials) -> RequestBuilder {
        self.http
            .request(method, format!("{}{path}", self.base))
            .basic_auth(&who.id, Some(who.secret.reveal()))
    }

    async fn send(request: RequestBuilder) -> anyhow::Result<Value> {
        let response = request.send().await.context("the server did not answer")?;
        let status = response.status();
        let body: Value = response.json().await.context("the answer is not JSON")?;
        if !status.is_success() {
            bail!("the server answered {status}: {}", body["issue"][0]["details"]["text"]);
        }
        Ok(body)
    }

    /// A project, with a client that is its admin.
    pub async fn make_operator(&self, super_admin: &ClientCredentials) -> anyhow::Result<ClientCredentials> {
        let body = json!({ "resourceType": "Project", "name": "Demo" });
        let project =
            Self::send(self.request(Method::POST, "fhir/R4/Project", super_admin).json(&body)).await?;
        let path = format!("admin/projects/{}/client", text(&project, "id")?);
        let body = json!({ "name": "Operator" });
        let client = Self::send(self.request(Method::POST, &path, super_admin).json(&body)).await?;
        let operator = ClientCredentials::from_json(&client, "id", "secret")?;

        let path = format!("fhir/R4/ProjectMembership?profile=ClientApplication/{}", operator.id);
        let found = Self::send(self.request(Method::GET, &path, super_admin)).await?;
        let membership = text(&found["entry"][0]["resource"], "id")?;
        let promotion = json!([{ "op": "add", "path": "/admin", "value": true }]);
        let path = format!("fhir/R4/ProjectMembership/{membership}");
        Self::send(self.request(Method::PATCH, &path, super_admin).json(&promotion)).await?;
        Ok(operator)
    }

    /// A client application in the operator's project.
    pub async fn make_client(
        &self,
        operator: &ClientCredentials,
        name: &str,
    ) -> anyhow::Result<ClientCredentials> {
        let me = Self::send(self.request(Method::GET, "auth/me", operator)).await?;
        let path = format!("admin/projects/{}/client", text(&me["project"], "id")?);
        let client =
            Self::send(self.request(Method::POST, &path, operator).json(&json!({ "name": name }))).await?;
        ClientCredentials::from_json(&client, "id", "secret")
    }

    async fn operation(
        &self,
        operator: &ClientCredentials,
        id: &str,
        name: &str,
        secret: &PlainSecret,
    ) -> anyhow::Result<Value> {
        let body = json!({
            "resourceType": "Parameters",
            "parameter": [{ "name": name, "valueString": secret.reveal() }]
        });
        let path = format!("fhir/R4/ClientApplication/{id}/$rotate-secret");
        Self::send(self.request(Method::POST, &path, operator).json(&body)).await
    }

    /// Rotates a client's secret, and gives the new one.
    pub async fn rotate(
        &self,
        operator: &ClientCredentials,
        client: &ClientCredentials,
    ) -> anyhow::Result<PlainSecret> {
        secret_in(&self.operation(operator, &client.id, "secret", &client.secret).await?, "secret")
    }

    /// Retires a client's retiring secret.
    pub async fn retire(
        &self,
        operator: &ClientCredentials,
        id: &str,
        retiring: &PlainSecret,
    ) -> anyhow::Result<()> {
        self.operation(operator, id, "retiringSecret", retiring).await.map(drop)
    }

    /// The server's own count of how often retiring secrets were used.
    pub async fn retiring_uses(&self) -> anyhow::Result<u64> {
        let metrics = self.http.get(format!("{}metrics", self.base)).send().await?.text().await?;
        let line = metrics
            .lines()
            .find_map(|line| line.strip_prefix("keyrelay_secret_uses_total{slot=\"retiring\"} "));
        line.and_then(|count| count.parse().ok()).context("the metrics do not count uses of retiring secrets")
    }

    /// Fetches a token.
    pub async fn token(
        &self,
        id: &str,
        secret: &PlainSecret,
    ) -> Result<(StatusCode, Option<String>), reqwest::Error> {
        let form =
            [("grant_type", "client_credentials"), ("client_id", id), ("client_secret", secret.reveal())];
        let response = self.http.post(format!("{}oauth2/token", self.base)).form(&form).send().await?;
        let status = response.status();
        let body: Value = response.json().await?;
        Ok((status, body["access_token"].as_str().map(str::to_owned)))
    }

    /// Reads the client's own resource, with a token.
    pub async fn read_with_token(&self, id: &str, token: &str) -> Result<StatusCode, reqwest::Error> {
        let url = format!("{}fhir/R4/ClientApplication/{id}", self.base);
        let response = self.http.get(url).bearer_auth(token).send().await?;
        let status = response.status();
        response.bytes().await?;
        Ok(status)
    }

    /// Reads the client's own resource, with its secret.
    pub async fn read_with_secret(
        &self,
        id: &str,
        secret: &PlainSecret,
    ) -> Result<StatusCode, reqwest::Error> {
        let url = format!("{}fhir/R4/ClientApplication/{id}", self.base);
        let response = self.http.get(url).basic_auth(id, Some(secret.reveal())).send().await?;
        let status = response.status();
        response.bytes().await?;
        Ok(status)
    }

    /// Tries a secret in both places, and counts how often it was accepted.
    pub async fn tries_accepted(&self, id: &str, secret: &PlainSecret) -> anyhow::Result<usize> {
        let (token, _) = self.token(id, secret).await?;
        let basic = self.read_with_secret(id, secret).await?;
        Ok([token, basic].iter().filter(|status| **status != StatusCode::UNAUTHORIZED).count())
    }
}
