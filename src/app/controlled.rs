//! The gateway's control as the admin listener knows it.

use std::sync::Arc;

use axum::http::StatusCode;

use crate::{
    admin::changes::{self, Configuration, Glance, Refusal, Reloaded, Switched, Wish},
    app::control::{ChangeError, Control},
};

impl changes::Control for Control {
    fn glance(&self) -> Arc<Glance> {
        Control::glance(self)
    }

    fn configuration(&self) -> Configuration {
        let view = self.view();
        let switches = &view.switches;
        let switched = switches.routes().map(|(route, switch)| (route.to_owned(), switch.clone()));
        Configuration {
            path: view.path.display().to_string(),
            environment: view.environment.clone(),
            environments: view.environments.clone(),
            reading: view.reading.clone(),
            switched: switched.collect(),
            switched_environment: switches.environment().cloned(),
            history: switches.history().cloned().collect(),
        }
    }

    fn reload(&self, by: &str) -> Result<Reloaded, Refusal> {
        Control::reload(self, by).map_err(|error| refusal(&error))
    }

    fn switch(&self, wish: &Wish, by: &str) -> Result<Switched, Refusal> {
        Control::switch(self, wish, by).map_err(|error| refusal(&error))
    }

    fn undo(&self, route: Option<&str>, by: &str) -> Result<Switched, Refusal> {
        Control::undo(self, route, by).map_err(|error| refusal(&error))
    }
}

fn refusal(error: &ChangeError) -> Refusal {
    let (status, code) = match error {
        ChangeError::Problems(_) => (StatusCode::UNPROCESSABLE_ENTITY, "configuration_invalid"),
        ChangeError::Reload(_) => (StatusCode::CONFLICT, "cannot_be_put_in_force"),
        ChangeError::Unknown { .. } | ChangeError::NoAccount => (StatusCode::NOT_FOUND, "not_defined"),
        ChangeError::Already(_) => (StatusCode::CONFLICT, "already_so"),
        ChangeError::NoToken(..) => (StatusCode::BAD_GATEWAY, "no_token"),
        ChangeError::NotKept(_) | ChangeError::StateDir { .. } => {
            (StatusCode::INSUFFICIENT_STORAGE, "not_kept")
        }
        ChangeError::Span => (StatusCode::BAD_REQUEST, "bad_span"),
    };
    Refusal { status, code, detail: error.to_string().trim_end().to_owned() }
}
