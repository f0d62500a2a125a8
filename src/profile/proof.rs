//! One proof of who the client is, made for one token request.
//!
//! One method is used, the configured one: trying another after a failure would double the failed
//! logins that the provider counts. What is kept in sources is read for each proof, so a rotated
//! secret, key or certificate needs no restart.

use std::sync::Arc;

use reqwest::header::HeaderValue;
use serde_json::Map;
use url::Url;

use crate::{
    clock,
    profile::{
        assertion::{Audience, JWT_BEARER, Signer, Statement},
        authentication::{ClientAuth, ProofError},
        certificate::{self, Certificate, Holder, Presented},
        client_secret::{Reader, Secrets, Which},
        content::Content,
        expiry::Expiry,
        foreign::Foreign,
        key::{Algorithm, PrivateKey},
        refusal::ExchangeError,
    },
    secret::{Fingerprint, Secret},
    source::{Kept, Source, budget::Budget, flaws::Flaws},
};

/// A value, and what is wrong with a newer one that was passed over.
type Read<T> = Result<(T, Option<ExchangeError>), ExchangeError>;

/// What proves the client in one token request.
#[derive(Clone)]
pub(super) struct Proof {
    /// Parameters of the form.
    pub(super) parameters: Vec<(&'static str, Secret)>,
    /// The `Authorization` field.
    pub(super) authorization: Option<HeaderValue>,
    /// What is sent and must not come back in an error.
    pub(super) secrets: Vec<Secret>,
    /// What the TLS handshake shows.
    pub(super) certificate: Option<Arc<Certificate>>,
    /// Which of two client secrets it is made with.
    which: Which,
    /// What it is made of. Two with the same are refused alike.
    material: Vec<Fingerprint>,
}

/// What one proof is made for and with.
#[derive(Clone, Copy)]
struct Round<'a> {
    token_url: &'a Url,
    which: Which,
    budget: &'a Budget,
}

/// A client that can prove itself again and again.
pub(super) struct Authentication {
    profile: String,
    client_id: String,
    method: ClientAuth,
    /// The key of `private_key_jwt`, with the bytes that it was made of.
    key: Kept<(Fingerprint, PrivateKey)>,
    /// The certificate that signs assertions.
    signing: Option<Holder>,
    /// The certificate that is shown in TLS handshakes.
    shown: Option<Holder>,
    presented: Arc<Presented>,
    /// The token that somebody else has made.
    foreign: Foreign,
    secrets: Reader,
    /// What is wrong with what was read last.
    flaws: Flaws,
}

impl Authentication {
    /// `shown` is the certificate for TLS handshakes, with whatever `method`.
    pub(super) fn new(
        profile: &str,
        client_id: String,
        method: ClientAuth,
        shown: Option<certificate::Place>,
    ) -> Self {
        let signing = match &method {
            ClientAuth::CertificateJwt { place, .. } => Some(Holder::new(place.clone())),
            _ => None,
        };
        Self {
            profile: profile.to_owned(),
            client_id,
            method,
            key: Kept::default(),
            signing,
            shown: shown.map(Holder::new),
            presented: Arc::default(),
            foreign: Foreign::default(),
            secrets: Reader::default(),
            flaws: Flaws::default(),
        }
    }

    /// Whether a certificate is shown in TLS handshakes.
    pub(super) fn shows_certificate(&self) -> bool {
        self.shown.is_some()
    }

    /// What upstreams are to be shown, if tokens are bound to a certificate.
    pub(super) fn presented(&self) -> Option<&Arc<Presented>> {
        self.shown.as_ref().map(|_| &self.presented)
    }

    /// A token was given for `proof`: from now on upstreams are shown the certificate it is bound to, and
    /// the client secret that it was made with is the one to begin with.
    pub(super) fn accepted(&self, proof: &Proof) {
        self.judged(proof, false);
        self.presented.set(proof.certificate.clone());
        if let Some(secrets) = self.method.secrets() {
            self.secrets.worked(secrets, proof.which, &self.profile);
        }
    }

    /// The provider does not take what the client proves itself with.
    pub(super) fn refused(&self, proof: &Proof) {
        self.judged(proof, true);
    }

    fn judged(&self, proof: &Proof, is_refused: bool) {
        if let (ClientAuth::Assertion(_), Some(print)) = (&self.method, proof.material.last()) {
            self.foreign.judged(*print, is_refused);
        }
    }

    /// Whether the second of two client secrets was the last that worked.
    pub(super) fn second_secret_works(&self) -> bool {
        self.secrets.favourite() == Which::Second
    }

    /// What the provider compares with its registration of the account, and is no secret.
    pub(super) fn particulars(&self, sent: &Proof) -> Option<String> {
        match &self.method {
            ClientAuth::Assertion(_) => Content::of(sent.secrets.first()?)
                .map(|token| format!("the token that was sent has {}", token.trust())),
            ClientAuth::CertificateJwt { .. } => {
                let thumbprint = self.signing.as_ref()?.thumbprint()?;
                Some(format!("the certificate that signed has the thumbprint {thumbprint}"))
            }
            _ => None,
        }
    }

    /// Another proof to try at once, after the provider has refused `proof`: with what has been replaced
    /// since it was read, or else with the other of two secrets. `None` when there is nothing new to say.
    ///
    /// # Errors
    /// When a source cannot be read.
    pub(super) async fn another(
        &self,
        token_url: &Url,
        proof: &Proof,
        budget: &Budget,
    ) -> Result<Option<Proof>, ExchangeError> {
        let later = self.prove_with(Round { token_url, which: proof.which, budget }).await?;
        if later.material != proof.material {
            return Ok(Some(later));
        }
        if self.method.secrets().is_none_or(|secrets| secrets.second.is_none()) {
            return Ok(None);
        }
        let other = self.prove_with(Round { token_url, which: proof.which.other(), budget }).await?;
        Ok((other.material != proof.material).then_some(other))
    }

    /// When what was used last expires, as far as that is known.
    pub(super) fn expiries(&self) -> Vec<Expiry> {
        let mut found = Vec::new();
        if let Some(secrets) = self.method.secrets() {
            let of = |source: &Source| source.expires().map(|at| Expiry { what: "client_secret", at });
            found
                .extend([Some(&secrets.first), secrets.second.as_ref()].into_iter().flatten().filter_map(of));
        }
        for holder in [&self.signing, &self.shown].into_iter().flatten() {
            found.extend(holder.expires().map(|at| Expiry { what: "certificate", at }));
        }
        found.dedup();
        found
    }

    /// The proof for a request to `token_url`, made now: secrets are read from their sources.
    ///
    /// # Errors
    /// When a source cannot be read, or holds nothing that proves anything.
    pub(super) async fn prove(&self, token_url: &Url, budget: &Budget) -> Result<Proof, ExchangeError> {
        let which = self.secrets.favourite();
        let has_other = self.method.secrets().is_some_and(|secrets| secrets.second.is_some());
        match self.prove_with(Round { token_url, which, budget }).await {
            // One of two is enough.
            Err(ExchangeError::Source(error)) if has_other => {
                let other = self.prove_with(Round { token_url, which: which.other(), budget }).await;
                other.map_err(|_| ExchangeError::Source(error))
            }
            outcome => outcome,
        }
    }

    /// The same proof made anew: it may be good for one request only.
    ///
    /// # Errors
    /// When a source cannot be read.
    pub(super) async fn prove_like(
        &self,
        token_url: &Url,
        proof: &Proof,
        budget: &Budget,
    ) -> Result<Proof, ExchangeError> {
        self.prove_with(Round { token_url, which: proof.which, budget }).await
    }

    async fn prove_with(&self, round: Round<'_>) -> Result<Proof, ExchangeError> {
        let id = || ("client_id", Secret::new(self.client_id.clone()));
        let certificate = match &self.shown {
            Some(holder) => {
                let read = holder.read(round.budget).await.map_err(ProofError::from)?;
                Some(self.flaws.settle(&self.profile, "certificate", read))
            }
            None => None,
        };
        let mut material: Vec<_> = certificate.iter().map(|shown| shown.fingerprint()).collect();
        let (mut parameters, mut authorization, mut secrets) = (Vec::new(), None, Vec::new());
        match &self.method {
            // Some servers refuse a client_id beside Basic: RFC 6749 §2.3 wants one method only.
            ClientAuth::SecretBasic { secret, encoding } => {
                let secret = self.secret(secret, round).await?;
                authorization = Some(encoding.header(&self.client_id, &secret));
                material.push(secret.fingerprint());
                secrets.push(secret);
            }
            ClientAuth::SecretPost(secret) => {
                let secret = self.secret(secret, round).await?;
                parameters = vec![id(), ("client_secret", secret.clone())];
                material.push(secret.fingerprint());
                secrets.push(secret);
            }
            // RFC 8705 §2: the certificate is in the handshake, and only the id says whose it is.
            ClientAuth::TlsClientAuth | ClientAuth::SelfSignedTls | ClientAuth::None => {
                parameters.push(id());
            }
            ClientAuth::Absent => {}
            ClientAuth::SecretJwt { .. }
            | ClientAuth::KeyJwt { .. }
            | ClientAuth::CertificateJwt { .. }
            | ClientAuth::Assertion(_) => {
                let (assertion, print) = self.assertion(round).await?;
                let kind = Secret::new(JWT_BEARER.to_owned());
                parameters =
                    vec![id(), ("client_assertion_type", kind), ("client_assertion", assertion.clone())];
                material.push(print);
                secrets.push(assertion);
            }
        }
        Ok(Proof { parameters, authorization, secrets, certificate, which: round.which, material })
    }

    async fn secret(&self, secrets: &Secrets, round: Round<'_>) -> Result<Secret, ExchangeError> {
        Ok(self.secrets.read(secrets, round.which, (&self.profile, &self.flaws), round.budget).await?)
    }

    /// A fresh assertion, or the one that somebody else has made, and what it is made of.
    async fn assertion(&self, round: Round<'_>) -> Result<(Secret, Fingerprint), ExchangeError> {
        let Round { token_url, budget, .. } = round;
        let (assertion, print) = match &self.method {
            ClientAuth::SecretJwt { secret, audience } => {
                let secret = self.secret(secret, round).await?;
                let signed =
                    self.statement(audience, token_url).sign(&Signer::Secret(&secret), clock::wall());
                (signed, secret.fingerprint())
            }
            ClientAuth::KeyJwt { key, algorithm, key_id, audience } => {
                let read = self.private_key(key, *algorithm, budget).await?;
                let private = self.flaws.settle(&self.profile, "private_key", read);
                let mut statement = self.statement(audience, token_url);
                statement.key_id = key_id.as_deref();
                (statement.sign(&Signer::Key(&private, *algorithm), clock::wall()), private.fingerprint())
            }
            ClientAuth::CertificateJwt { place, algorithm } => {
                return self.certificate_assertion(place, *algorithm, round).await;
            }
            ClientAuth::Assertion(source) => {
                let read = self.foreign.read(source, budget).await?;
                let token = self.flaws.settle(&self.profile, "token of the workload", read);
                let print = token.fingerprint();
                return Ok((token, print));
            }
            _ => (None, Fingerprint::of(&[])),
        };
        let words = "the method is one of assertions, and the key was found to fit the algorithm";
        Ok((assertion.expect(words), print))
    }

    fn statement<'a>(&'a self, audience: &'a Audience, token_url: &'a Url) -> Statement<'a> {
        let audience = match audience {
            Audience::TokenEndpoint => token_url.as_str(),
            Audience::Literal(text) => text,
        };
        Statement {
            issuer: &self.client_id,
            subject: Some(&self.client_id),
            audience,
            key_id: None,
            thumbprint: None,
            claims: Map::new(),
        }
    }

    async fn certificate_assertion(
        &self,
        place: &certificate::Place,
        algorithm: Algorithm,
        Round { token_url, budget, .. }: Round<'_>,
    ) -> Result<(Secret, Fingerprint), ExchangeError> {
        let holder = self.signing.as_ref().expect("`new` made it for this method");
        let read = holder.read(budget).await.map_err(ProofError::from)?;
        let certificate = self.flaws.settle(&self.profile, "certificate", read);
        let now = clock::wall();
        if certificate.expires() <= now {
            let at = certificate.expires_text().to_owned();
            return Err(ProofError::CertificateExpired { place: place.certificate.clone(), at }.into());
        }
        let source = place.private_key.as_ref().unwrap_or(&place.certificate);
        let key = certificate.signing_key(algorithm, source).map_err(ProofError::from)?;
        let (name, print) = match algorithm {
            Algorithm::Rs256 => ("x5t", certificate.thumbprint_sha1()),
            Algorithm::Ps256 | Algorithm::Es256 => ("x5t#S256", certificate.thumbprint_sha256()),
        };
        let mut statement = self.statement(&Audience::TokenEndpoint, token_url);
        statement.thumbprint = Some((name, &print));
        let signed = statement.sign(&Signer::Key(key, algorithm), now);
        Ok((signed.expect("the key was found to fit the algorithm"), certificate.fingerprint()))
    }

    async fn private_key(&self, source: &Source, algorithm: Algorithm, budget: &Budget) -> Read<PrivateKey> {
        let read = async {
            let has_last = self.key.last().is_some();
            let pem = budget.read(source, has_last, source.read_document()).await?;
            let bytes = Fingerprint::of(&pem);
            if let Some(known) = self.key.last().filter(|(of, _)| *of == bytes) {
                return Ok(known);
            }
            let key = PrivateKey::from_pem(&pem, source).map_err(ProofError::from)?;
            key.fits(algorithm, source).map_err(ProofError::from)?;
            Ok::<_, ExchangeError>((bytes, key))
        };
        let ((_, key), flaw) = self.key.or_last(read.await)?;
        Ok((key, flaw))
    }

    /// What tells that the next proof would be made with another secret, as far as that costs little.
    /// Says what is broken: the next proof may be an hour away.
    ///
    /// A token of somebody else's is not part of it: it is renewed all the time and proves the same. But the next
    /// one is noticed after one that was refused; and while there is none that is valid, there is no answer, so
    /// that the next valid one is noticed as well.
    ///
    /// # Errors
    /// When a source cannot be read.
    pub(super) async fn fingerprint(&self) -> Result<Option<Fingerprint>, ExchangeError> {
        let (mut prints, budget) = (Vec::new(), Budget::endless());
        match &self.method {
            ClientAuth::SecretBasic { secret, .. }
            | ClientAuth::SecretPost(secret)
            | ClientAuth::SecretJwt { secret, .. } => {
                prints.extend(self.secrets.fingerprint(secret, (&self.profile, &self.flaws)).await?);
            }
            ClientAuth::KeyJwt { key, algorithm, .. } => {
                if key.is_cheap() {
                    let read = self.private_key(key, *algorithm, &budget).await?;
                    prints.push(self.flaws.settle(&self.profile, "private_key", read).fingerprint());
                }
            }
            ClientAuth::Assertion(source) => {
                if source.is_cheap() {
                    let read = self.foreign.read(source, &budget).await?;
                    let token = self.flaws.settle(&self.profile, "token of the workload", read);
                    prints.extend(self.foreign.fingerprint(&token));
                }
            }
            ClientAuth::CertificateJwt { .. }
            | ClientAuth::TlsClientAuth
            | ClientAuth::SelfSignedTls
            | ClientAuth::None
            | ClientAuth::Absent => {}
        }
        for holder in [&self.signing, &self.shown].into_iter().flatten().filter(|holder| holder.is_cheap()) {
            let read = holder.read(&budget).await.map_err(ProofError::from)?;
            prints.push(self.flaws.settle(&self.profile, "certificate", read).fingerprint());
        }
        let parts: Vec<&[u8]> = prints.iter().map(Fingerprint::as_bytes).collect();
        Ok((!parts.is_empty()).then(|| Fingerprint::of_all(parts)))
    }
}
