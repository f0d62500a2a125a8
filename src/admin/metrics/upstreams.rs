//! What `/metrics` shows of connections to upstreams.

use std::collections::BTreeMap;

use prometheus_client::{
    encoding::DescriptorEncoder,
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};

use super::{Encoded, Gateway, one};
use crate::upstream::Closing;

/// One origin's connections, all workers and all profiles together.
#[derive(Debug, Default)]
pub(super) struct UpstreamSum {
    origin: String,
    open: u64,
    idle: u64,
    opened: u64,
    closed: [u64; Closing::ALL.len()],
}

/// Every origin of the routing table that has been connected to.
pub(super) fn sums(gateway: &Gateway) -> Vec<UpstreamSum> {
    let snapshot = gateway.snapshot();
    // Those of former accounts as well: a route that goes back to one goes on with its numbers.
    let all = snapshot.routes.iter().flat_map(|route| {
        let former = route.former.iter().filter_map(|former| former.upstream.as_ref());
        former.map(|(_, upstream)| upstream).chain([&route.upstream])
    });
    let by_id: BTreeMap<u64, _> = all.map(|upstream| (upstream.id(), upstream)).collect();
    let mut by_origin = BTreeMap::<String, UpstreamSum>::new();
    for (id, upstream) in by_id.into_iter().filter(|(_, upstream)| upstream.opened() > 0) {
        let open = upstream.open() as u64;
        let idle: u64 = gateway.pools().iter().map(|pool| pool.idle(id)).sum();
        let origin = upstream.origin().to_string();
        let sum =
            by_origin.entry(origin.clone()).or_insert_with(|| UpstreamSum { origin, ..Default::default() });
        sum.open += open;
        // An idle connection that its upstream has closed is noticed a moment later.
        sum.idle += idle.min(open);
        sum.opened += upstream.opened();
        for (sum, why) in sum.closed.iter_mut().zip(Closing::ALL) {
            *sum += upstream.closed(why);
        }
    }
    by_origin.into_values().collect()
}

pub(super) fn encode(upstreams: &[UpstreamSum], encoder: &mut DescriptorEncoder<'_>) -> Encoded {
    let help = "Open connections to upstreams, those that wait for a request and those that have one";
    let mut family = encoder.encode_descriptor("upstream_connections", help, None, MetricType::Gauge)?;
    for upstream in upstreams {
        for (state, number) in [("idle", upstream.idle), ("in_use", upstream.open - upstream.idle)] {
            let labels = vec![("upstream", upstream.origin.as_str()), ("state", state)];
            one(&mut family, &labels, &ConstGauge::new(number.cast_signed()))?;
        }
    }
    let help = "Connections that were made to upstreams";
    let mut family =
        encoder.encode_descriptor("upstream_connections_opened", help, None, MetricType::Counter)?;
    for upstream in upstreams {
        one(&mut family, &vec![("upstream", upstream.origin.as_str())], &ConstCounter::new(upstream.opened))?;
    }
    let help = "Connections to upstreams that the gateway closed, by why";
    let mut family =
        encoder.encode_descriptor("upstream_connections_closed", help, None, MetricType::Counter)?;
    for upstream in upstreams {
        for (why, number) in Closing::ALL.iter().zip(upstream.closed) {
            let labels = vec![("upstream", upstream.origin.as_str()), ("reason", why.name())];
            one(&mut family, &labels, &ConstCounter::new(number))?;
        }
    }
    Ok(())
}
