//! What goes wrong around the gateway, one thing after the other, so that it is known what is safe to answer.

use std::{sync::Arc, time::Duration};

use keybearer::demo::idp::Behaviour;
use tokio::{sync::watch, time::Instant};

use crate::Soak;

/// How long one thing goes wrong.
const SPELL: Duration = Duration::from_millis(1_500);
/// In which a revoked token must have been replaced.
const REPLACED_MAX: Duration = Duration::from_secs(10);

/// Makes things go wrong until `stopped` turns true, and puts everything right then.
pub(crate) async fn make(soak: Arc<Soak>, stopped: watch::Receiver<bool>) {
    let mut turn = 0;
    while !*stopped.borrow() {
        match turn % 6 {
            // With the provider there, a revoked token is recoverable.
            0 | 3 => revoke(&soak).await,
            // Away, broken or silent: the token is valid, so nobody may notice.
            1 => {
                soak.idp.go_down().await.unwrap();
                tokio::time::sleep(SPELL).await;
                soak.idp.come_back().await.unwrap();
            }
            2 => spell(&soak, Behaviour::Status(503)).await,
            4 => spell(&soak, Behaviour::Hang).await,
            _ => spell(&soak, Behaviour::Throttle { retry_after_seconds: 1 }).await,
        }
        tokio::time::sleep(SPELL / 3).await;
        turn += 1;
    }
}

async fn spell(soak: &Soak, behaviour: Behaviour) {
    soak.idp.set_behaviour(behaviour);
    tokio::time::sleep(SPELL).await;
    soak.idp.set_behaviour(Behaviour::Normal);
}

/// Takes all tokens back and waits for the next one, so that no second thing goes wrong at the same time.
async fn revoke(soak: &Soak) {
    let issued = soak.idp.issued();
    soak.idp.revoke_all();
    let begun = Instant::now();
    while soak.idp.issued() == issued {
        if begun.elapsed() > REPLACED_MAX {
            return soak.tally.lost(format!("a revoked token is not replaced in {REPLACED_MAX:?}"));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // Requests that were refused with the old token are on their way with the new one.
    tokio::time::sleep(SPELL / 3).await;
}

/// Every second renews the certificate of the listener, its two files one after the other as tools do, and
/// reloads the configuration.
pub(crate) async fn renew(soak: Arc<Soak>, stopped: watch::Receiver<bool>) {
    while !*stopped.borrow() {
        soak.issue();
        soak.reload();
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}
