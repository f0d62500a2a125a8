//! What commands say to a running gateway's admin API, and its answers. Every failure is told in words with what
//! to do next.

use std::{
    error::Error,
    io::{self, IsTerminal as _},
    time::Duration,
};

use anyhow::anyhow;
use reqwest::{Method, StatusCode};
use serde_json::Value;
use tokio::runtime::Runtime;
use url::{Host, Url};

use crate::{
    cli::{
        Failure, pinned,
        place::{Door, Place},
        print, say,
    },
    outbound,
    profile::diagnosis::{Diagnosis, network::of_network},
};

/// A gateway that does not answer a question within this is not well.
const ASK_TIME_MAX: Duration = Duration::from_secs(5);
/// A change may wait for the tokens of many profiles, each for ten seconds or so.
const CHANGE_TIME_MAX: Duration = Duration::from_secs(300);
/// After this a person is told what the wait is for.
const SILENCE_MAX: Duration = Duration::from_secs(1);
/// What the API answers is no longer than this: ten thousand routes are 6 MiB.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Speaks to one gateway.
pub(super) struct Client {
    http: reqwest::Client,
    runtime: Runtime,
    place: Place,
    base: String,
    /// Whether a refusal is printed as the API said it, before it is told in words.
    prints_refusals: bool,
}

impl Client {
    /// A client for `place`. Nothing is sent yet. With `prints_refusals`, for programs, what the API answers to a change
    /// is printed also when it is no.
    pub(super) fn new(place: Place, prints_refusals: bool) -> Result<Self, Failure> {
        // A proxy has no business between a person and this gateway.
        let builder = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
        let (builder, base) = match &place.door {
            // Plain HTTP works on a machine without any certificate.
            Door::Unix(path) => {
                (builder.tls_certs_only([]).unix_socket(path.clone()), "http://localhost".to_owned())
            }
            Door::Url(url) if url.scheme() == "http" => (builder.tls_certs_only([]), place.door.to_string()),
            Door::Url(_) => {
                let tls = pinned::settings(&place)?;
                (builder.tls_backend_preconfigured(tls), place.door.to_string())
            }
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { http: builder.build()?, runtime, place, base, prints_refusals })
    }

    /// Where commands may wait for time and signals.
    pub(super) fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// What the API says at `path`, which begins behind `/api/v1`.
    pub(super) async fn ask(&self, path: &str) -> Result<Value, Failure> {
        let request = self.http.get(format!("{}/api/v1{path}", self.base)).timeout(ASK_TIME_MAX);
        self.answer(request).await
    }

    /// Has something changed. The token goes over TLS, or stays on this machine.
    pub(super) fn change(&self, method: Method, path: &str, body: &Value) -> Result<Value, Failure> {
        let mut request = self.http.request(method, format!("{}/api/v1{path}", self.base));
        if let Some(token) = self.place.secret()? {
            if let Door::Url(url) = &self.place.door
                && url.scheme() == "http"
                && !is_here(url)
            {
                let words =
                    format!("{url} is plain HTTP to another machine, where the admin token must not go");
                return Err(Failure::Bad(format!(
                    "keybearer: {words} (give the listener tls, and say https://)\n"
                )));
            }
            request = request.bearer_auth(token.expose());
        }
        let request = request.header("content-type", "application/json").body(body.to_string());
        let changing = self.answer(request.timeout(CHANGE_TIME_MAX));
        self.runtime.block_on(async {
            tokio::pin!(changing);
            // The change goes on behind the words.
            tokio::select! {
                answer = &mut changing => return answer,
                () = tokio::time::sleep(SILENCE_MAX) => {}
            }
            if io::stderr().is_terminal() {
                say("waiting for the gateway: it gets the tokens first …\n");
            }
            changing.await
        })
    }

    async fn answer(&self, request: reqwest::RequestBuilder) -> Result<Value, Failure> {
        let mut response = request.send().await.map_err(|error| self.unreached(&error))?;
        let status = response.status();
        // The gateway's own fault to a caller: this is a listener for callers.
        let is_fault = response.headers().contains_key("proxy-status");
        let mut body = Vec::new();
        while let Some(part) = response.chunk().await.map_err(|error| self.unreached(&error))? {
            if body.len() + part.len() > ANSWER_BYTES_MAX {
                return Err(
                    anyhow!("{} answers with more than 64 MiB; is it a gateway?", self.place.door).into()
                );
            }
            body.extend_from_slice(&part);
        }
        match serde_json::from_slice::<Value>(&body) {
            Ok(answer) if status.is_success() => Ok(answer),
            Ok(problem) if !is_fault => {
                if self.prints_refusals && problem.get("code").is_some() {
                    print(&format!("{problem}\n"))?;
                }
                Err(self.refused(status, &problem))
            }
            _ => Err(self.strange(status)),
        }
    }

    /// A problem document (RFC 9457) in words.
    fn refused(&self, status: StatusCode, problem: &Value) -> Failure {
        let text = |name: &str| problem.get(name).and_then(Value::as_str).unwrap_or_default();
        // Whoever answers there does not write to this terminal as he likes.
        let detail = text("detail").replace(|c: char| c.is_control() && c != '\n', " ");
        match text("code") {
            "" => self.strange(status),
            "token_needed" => anyhow!(
                "{} does not take the admin token in {}: {detail}\n  next: has the token been replaced since the gateway \
                 started, or is this another gateway's? say --admin, --config or --token-file",
                self.place.door,
                self.place.token_place()
            )
            .into(),
            "not_defined" | "bad_span" | "bad_body" | "bad_level" | "configuration_invalid" => {
                Failure::Bad(format!("keybearer: {detail}\n"))
            }
            "nothing_here" | "method_not_allowed" => self.strange(status),
            _ => anyhow!("{detail}").into(),
        }
    }

    /// Something answers, but not as this program's gateway does.
    fn strange(&self, status: StatusCode) -> Failure {
        anyhow!(
            "{} answers with status {status}, but not as the admin listener of keybearer {} does\n  next: see that --admin \
             names the admin listener, not another one, and that the gateway has this program's version",
            self.place.door,
            env!("CARGO_PKG_VERSION")
        )
        .into()
    }

    fn unreached(&self, error: &reqwest::Error) -> Failure {
        let door = &self.place.door;
        let system = kind(error);
        let why =
            if error.is_timeout() { "it does not answer in time".into() } else { outbound::reason(error) };
        if why.contains("CaUsedAsEndEntity") {
            // Trusting it helps no more.
            let Diagnosis { meaning, remedy } = of_network(&why);
            return anyhow!("no gateway answers at {door}: {meaning}\n  next: {remedy}").into();
        }
        let next = match (door, system) {
            _ if why.contains("CertificateRequired") => {
                "it asks for a client certificate (client_ca): say --certificate FILE and --key FILE, or use a unix socket"
            }
            _ if self.place.identity.is_some() && why.contains("received fatal alert") => {
                "it does not take the certificate in --certificate: see that an authority in its client_ca has issued it, \
                 and that it has not expired"
            }
            (_, _) if error.is_timeout() => "it hangs or is far too busy: look at its log",
            (Door::Unix(_), Some(io::ErrorKind::PermissionDenied)) => {
                "your user may not write to the socket: run this as the gateway's user, or join the group of admin.socket"
            }
            (_, Some(io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)) => {
                "does it run (systemctl status keybearer), with this configuration? else say --admin"
            }
            (Door::Url(url), _) if url.scheme() == "https" && speaks_no_tls(&why) => {
                "the port does not speak TLS: say ADDRESS:PORT or http:// with --admin, if it is the admin listener's"
            }
            (Door::Url(url), _) if url.scheme() == "https" => {
                "trust its authority with --ca FILE, or name its configuration with --config FILE"
            }
            // What a listener with TLS says to it is no HTTP.
            (Door::Url(_), _) if why.contains("invalid HTTP version") => {
                "the port speaks TLS, or no HTTP at all: say https:// with --admin"
            }
            (Door::Url(_), _) => "if its admin listener has tls, say https:// with --admin",
            (Door::Unix(_), _) => "see that the socket is the admin listener's",
        };
        anyhow!("no gateway answers at {door}: {why}\n  next: {next}").into()
    }
}

/// Whether the TLS library has met something else.
fn speaks_no_tls(why: &str) -> bool {
    why.contains("InvalidContentType") || why.contains("corrupt message")
}

/// Whether nobody else can read what goes there.
fn is_here(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

/// What the operating system said, if it was the one to fail.
fn kind(error: &(dyn Error + 'static)) -> Option<io::ErrorKind> {
    let mut next = Some(error);
    let mut found = None;
    while let Some(cause) = next {
        found = cause.downcast_ref::<io::Error>().map(io::Error::kind).or(found);
        next = cause.source();
    }
    found
}
