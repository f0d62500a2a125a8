//! What `/metrics` shows of profiles: tokens, token requests and secrets.

use std::time::UNIX_EPOCH;

use prometheus_client::{
    encoding::DescriptorEncoder,
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Unit,
};

use super::{Encoded, gauge, histogram, one};
use crate::token::view::View;

pub(super) fn encode(profiles: &[View], encoder: &mut DescriptorEncoder<'_>) -> Encoded {
    let mut family = encoder.encode_descriptor(
        "token_ready",
        "Whether the profile can serve requests",
        None,
        MetricType::Gauge,
    )?;
    for view in profiles {
        one(&mut family, &vec![("profile", &view.name)], &ConstGauge::new(i64::from(view.ready)))?;
    }
    let mut family = encoder.encode_descriptor(
        "token_expires_in",
        "Life left in the profile's token, 0 for no token; absent for one without an end",
        Some(&Unit::Seconds),
        MetricType::Gauge,
    )?;
    // Without an end it has no life left to tell, and 0 would look like the end.
    for view in profiles.iter().filter(|view| view.age.is_none() || view.expires_in.is_some()) {
        let left = view.expires_in.map_or(0.0, |left| left.as_secs_f64());
        one(&mut family, &vec![("profile", &view.name)], &ConstGauge::new(left))?;
    }
    let help = "Until the next token request begins by itself, 0 while one is under way";
    let unit = Some(&Unit::Seconds);
    let mut family = encoder.encode_descriptor("token_next_request_in", help, unit, MetricType::Gauge)?;
    for view in profiles {
        let left = view.next_in.map_or(0.0, |left| left.as_secs_f64());
        one(&mut family, &vec![("profile", &view.name)], &ConstGauge::new(left))?;
    }
    encode_notes(profiles, encoder)?;
    encode_secrets(profiles, encoder)?;
    encode_requests(profiles, encoder)
}

fn encode_secrets(profiles: &[View], encoder: &mut DescriptorEncoder<'_>) -> Encoded {
    let mut family = encoder.encode_descriptor(
        "secret_expires",
        "When what the profile proves itself with expires, in seconds since 1970",
        Some(&Unit::Seconds),
        MetricType::Gauge,
    )?;
    for view in profiles {
        for expiry in &view.expiries {
            let seconds = expiry.at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
            let labels = vec![("profile", view.name.as_str()), ("what", expiry.what)];
            one(&mut family, &labels, &ConstGauge::new(seconds))?;
        }
    }
    Ok(())
}

fn encode_requests(profiles: &[View], encoder: &mut DescriptorEncoder<'_>) -> Encoded {
    let mut family =
        encoder.encode_descriptor("token_requests", "Token requests by result", None, MetricType::Counter)?;
    for view in profiles {
        for (result, number) in [("ok", view.refreshed), ("failed", view.failed)] {
            let labels = vec![("profile", view.name.as_str()), ("result", result)];
            one(&mut family, &labels, &ConstCounter::new(number))?;
        }
    }
    let help = "How long token requests took, with reading the secret and discovery";
    let unit = Some(&Unit::Seconds);
    let mut family =
        encoder.encode_descriptor("token_request_duration", help, unit, MetricType::Histogram)?;
    for view in profiles {
        histogram(&mut family, &vec![("profile", &view.name)], &view.latency)?;
    }
    Ok(())
}

fn encode_notes(profiles: &[View], encoder: &mut DescriptorEncoder<'_>) -> Encoded {
    let mut family = encoder.encode_descriptor(
        "token_roles_missing",
        "Expected roles that the profile's token does not carry",
        None,
        MetricType::Gauge,
    )?;
    for view in profiles.iter().filter(|view| view.expects_roles) {
        let missing = ConstGauge::new(gauge(view.notes.missing_roles.len()));
        one(&mut family, &vec![("profile", &view.name)], &missing)?;
    }
    let mut family = encoder.encode_descriptor(
        "token_size",
        "Size of the profile's last token",
        Some(&Unit::Bytes),
        MetricType::Gauge,
    )?;
    for view in profiles.iter().filter(|view| view.notes.token_bytes > 0) {
        let size = ConstGauge::new(gauge(view.notes.token_bytes));
        one(&mut family, &vec![("profile", &view.name)], &size)?;
    }
    let mut family = encoder.encode_descriptor(
        "identity_provider_clock_skew",
        "How far the provider's clock is ahead of this machine's, negative when behind",
        Some(&Unit::Seconds),
        MetricType::Gauge,
    )?;
    for view in profiles {
        if let Some(seconds) = view.notes.clock_skew {
            one(&mut family, &vec![("profile", &view.name)], &ConstGauge::new(seconds))?;
        }
    }
    Ok(())
}
