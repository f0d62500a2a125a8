//! One request to a route's upstream with a token and one without: does the API check tokens, and does
//! it take ours?

use std::{sync::Arc, time::Duration};

use http::{
    HeaderMap, HeaderValue, Method, Request, StatusCode, Uri,
    header::{HOST, USER_AGENT, WWW_AUTHENTICATE},
    response,
};
use http_body_util::Empty;
use hyper::{body::Bytes, client::conn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};

use crate::{
    doctor::{
        account::Had,
        network::{self, Stream, Target},
        step::{Outcome, Steps},
    },
    profile::{
        Grant,
        certificate::Certificate,
        content::Content,
        credential::Credential,
        diagnosis::{Diagnosis, network::of_network},
    },
    proxy::{credentials, settings::RouteSettings, target},
    route::Entry,
    upstream::{Http2, Origin},
};

/// From connecting to the answer's head.
const LIMIT: Duration = Duration::from_secs(20);

/// Asks for `path` as a caller would write it. Only GET is sent, and only to this route's upstream.
///
/// `had` are the tokens of the route's profile and of the profiles that go with it, in this order; there are
/// none when one of them could not be had.
pub(super) async fn examine(route: &Entry<RouteSettings>, path: &str, had: &[Arc<Had>], steps: &mut Steps) {
    let target = path.parse::<Uri>().ok().filter(|uri| uri.path().starts_with('/'));
    let target =
        target.and_then(|uri| target::upstream_target(&route.target, route.rule.path.as_str(), &uri).ok());
    let Some(target) = target else {
        let words = Diagnosis { meaning: "the path is no path", remedy: "write it as /v1/orders?limit=1" };
        steps.fail("probe", path.to_owned(), words);
        return;
    };
    if steps.count(Outcome::Failed) > 0 {
        let names =
            if route.target.profile.is_some() { &["without_token", "with_token"][..] } else { &["probe"] };
        names.iter().for_each(|name| steps.skip(name, "the upstream cannot be reached"));
        return;
    }
    let certificate = had.first().and_then(|had| had.certificate.as_ref());
    let question = Question { origin: &route.target.upstream, target: &target, certificate };
    let without = question.ask(&[]).await;
    let Some(profile) = &route.target.profile else {
        open(&without, steps);
        return;
    };
    match &without {
        Ok(answer) if answer.status.is_success() => {
            let words = Diagnosis {
                meaning: "the API does not check tokens on this path: whoever can reach it is let in",
                remedy: "turn on the API's authentication, or probe a path that needs it",
            };
            steps.warn("without_token", answer.shown(&target), words);
        }
        Ok(answer) => steps.ok("without_token", answer.shown(&target)),
        Err(error) => steps.fail("without_token", error.clone(), of_network(error)),
    }
    let Some(own) = had.first() else {
        steps.skip("with_token", format!("profile \"{profile}\" gave no token"));
        return;
    };
    match question.ask(had).await {
        Ok(answer) => judge(&answer, &target, &own.grant, steps),
        Err(error) => steps.fail("with_token", error.clone(), of_network(&error)),
    }
}

/// A route without a profile: any answer shows that the upstream speaks HTTP.
fn open(answer: &Result<Answer, String>, steps: &mut Steps) {
    match answer {
        Ok(answer) if answer.status.is_server_error() => {
            steps.warn("probe", answer.status.to_string(), of_trouble());
        }
        Ok(answer) => steps.ok("probe", answer.status.to_string()),
        Err(error) => steps.fail("probe", error.clone(), of_network(error)),
    }
}

fn of_trouble() -> Diagnosis {
    Diagnosis {
        meaning: "the API has a trouble of its own, or a proxy in front of it",
        remedy: "look at the API's log; the request got there",
    }
}

fn judge(answer: &Answer, target: &Uri, grant: &Grant, steps: &mut Steps) {
    let seen = answer.shown(target);
    let content = Content::of(grant.credential.secret());
    let claim = |value: Option<String>| value.unwrap_or_else(|| "unknown".into());
    let (audience, issuer) = content.as_ref().map_or((None, None), |c| (c.audience(), c.issuer()));
    match answer.status {
        StatusCode::UNAUTHORIZED => {
            let meaning = format!(
                "the API does not take the token: wrong audience or issuer, or keys that it does not know (the \
                 token's audience is {}, its issuer {})",
                claim(audience),
                claim(issuer)
            );
            let remedy =
                "compare both with what the API accepts; a v1 and a v2 token of Entra differ in both";
            steps.fail_as("with_token", seen, (meaning, remedy.into()));
        }
        StatusCode::FORBIDDEN => {
            let roles = content.map(|content| content.roles().join(", ")).filter(|roles| !roles.is_empty());
            let meaning = format!(
                "the API takes the token, but the account may not do this (its roles: {})",
                roles.unwrap_or_else(|| "none that can be read".into())
            );
            let remedy = "assign the role that the API demands for this path; the next token has it";
            steps.fail_as("with_token", seen, (meaning, remedy.into()));
        }
        StatusCode::NOT_FOUND => {
            let words = Diagnosis {
                meaning: "the token may be fine; the API has nothing at this path",
                remedy: "probe a path that exists; look at upstream: and strip_path: for a path too many",
            };
            steps.warn("with_token", seen, words);
        }
        status if status.is_server_error() => steps.warn("with_token", seen, of_trouble()),
        _ => steps.ok("with_token", seen),
    }
}

struct Answer {
    status: StatusCode,
    challenge: Option<String>,
}

impl Answer {
    fn shown(&self, target: &Uri) -> String {
        let challenge = self.challenge.as_ref().map_or(String::new(), |c| format!("; it says: {c}"));
        format!("GET {} gave {}{challenge}", target.path(), self.status.as_u16())
    }

    fn of(status: StatusCode, headers: &HeaderMap) -> Self {
        let challenge = headers.get(WWW_AUTHENTICATE).map(|value| {
            let text = String::from_utf8_lossy(value.as_bytes());
            text.chars().filter(|c| !c.is_control()).take(200).collect()
        });
        Self { status, challenge }
    }
}

/// One request to an upstream, as the gateway would send it.
struct Question<'a> {
    origin: &'a Origin,
    target: &'a Uri,
    /// What the token is bound to.
    certificate: Option<&'a Arc<Certificate>>,
}

impl Question<'_> {
    async fn ask(&self, had: &[Arc<Had>]) -> Result<Answer, String> {
        timeout(LIMIT, self.ask_slowly(had)).await.unwrap_or_else(|_| Err("timed out".into()))
    }

    async fn ask_slowly(&self, had: &[Arc<Had>]) -> Result<Answer, String> {
        let mut head = self.ask_once(had).await?;
        // The nonce that proofs are to hold comes with a refusal.
        if head.status == StatusCode::UNAUTHORIZED && self.learn(had, &head.headers) {
            head = self.ask_once(had).await?;
        }
        Ok(Answer::of(head.status, &head.headers))
    }

    /// Whether the answer holds a nonce for proofs of what was sent.
    fn learn(&self, had: &[Arc<Had>], answer: &HeaderMap) -> bool {
        let keys = had.iter().filter_map(|had| match &had.grant.credential {
            Credential::Dpop(_, key) => Some(key),
            _ => None,
        });
        keys.filter(|key| key.learn(&self.origin.to_string(), answer)).count() > 0
    }

    async fn ask_once(&self, had: &[Arc<Had>]) -> Result<response::Parts, String> {
        let Self { origin, certificate, .. } = self;
        let mut unseen = Steps::default();
        let stream = network::examine(&Target::of_upstream(origin, *certificate), &mut unseen).await;
        let Some(stream) = stream else { return Err("the upstream cannot be reached".into()) };
        let is_http2 = stream.is_http2() || origin.http2 == Http2::PriorKnowledge;
        let mut request = self.request(is_http2)?;
        for Had { grant, .. } in had.iter().map(AsRef::as_ref) {
            let (mut head, body) = request.into_parts();
            credentials::put_one(&grant.credential.ready(), &mut head, &origin.to_string())
                .map_err(|fault| format!("the credential cannot be put on the request: {}", fault.code()))?;
            request = Request::from_parts(head, body);
        }
        match stream {
            Stream::Plain(tcp) => exchange(tcp, request, is_http2).await,
            Stream::Tls(tls) => exchange(*tls, request, is_http2).await,
        }
    }

    fn request(&self, is_http2: bool) -> Result<Request<Empty<Bytes>>, String> {
        let Self { origin, target, .. } = self;
        let mut request = Request::new(Empty::<Bytes>::new());
        *request.method_mut() = Method::GET;
        *request.uri_mut() = (*target).clone();
        let agent = concat!("keybearer-doctor/", env!("CARGO_PKG_VERSION"));
        request.headers_mut().insert(USER_AGENT, HeaderValue::from_static(agent));
        if is_http2 {
            let whole = format!("{origin}{target}");
            *request.uri_mut() = whole.parse().map_err(|_| "the URL is no URL".to_owned())?;
        } else {
            let host = HeaderValue::from_str(&origin.authority()).map_err(|error| error.to_string())?;
            request.headers_mut().insert(HOST, host);
        }
        Ok(request)
    }
}

async fn exchange<T>(
    stream: T,
    request: Request<Empty<Bytes>>,
    is_http2: bool,
) -> Result<response::Parts, String>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let words = |error: hyper::Error| error.to_string();
    // Each connection ends with its sender: nothing else is asked on it.
    let response = if is_http2 {
        let (mut sender, connection) =
            conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.map_err(words)?;
        let driver = tokio::spawn(connection);
        let response = sender.send_request(request).await.map_err(words);
        driver.abort();
        response
    } else {
        let (mut sender, connection) = conn::http1::handshake(TokioIo::new(stream)).await.map_err(words)?;
        let driver = tokio::spawn(connection);
        let response = sender.send_request(request).await.map_err(words);
        driver.abort();
        response
    }?;
    Ok(response.into_parts().0)
}
