//! The listeners of a running gateway, and how a reload changes them.

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use tokio::{runtime::Handle, sync::mpsc, task::AbortHandle};

use crate::{
    admin::metrics::ListenerCount,
    config::Settings,
    listen::{self, Address, BindError, Change, Limits, Listener, Share, inherited::Inherited},
    upstream::room::Room,
};

/// Every listener that is open, and the workers' ends that get the next ones.
pub(super) struct Listeners {
    control: Handle,
    room: Arc<Room>,
    /// Sockets that are not bound here.
    pub(super) inherited: Arc<Inherited>,
    workers: Vec<mpsc::UnboundedSender<Share>>,
    open: Mutex<Vec<Open>>,
    /// For those who only look.
    pub(super) shown: Arc<ArcSwap<Vec<ListenerCount>>>,
}

struct Open {
    listener: Listener,
    /// The limits it was told.
    limits: Limits,
    /// What follows its certificates' files.
    follower: Option<AbortHandle>,
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(follower) = &self.follower {
            follower.abort();
        }
    }
}

/// What becomes of the listeners.
pub(super) struct Plan {
    /// Name and what it becomes.
    changed: Vec<(String, Change)>,
    new: Vec<Listener>,
    gone: Vec<String>,
    limits: Limits,
}

impl Listeners {
    /// None yet. `workers` get a share of each.
    pub(super) fn new(
        control: &Handle,
        workers: Vec<mpsc::UnboundedSender<Share>>,
        inherited: Arc<Inherited>,
    ) -> Self {
        Self {
            control: control.clone(),
            room: Room::of_this_process(),
            inherited,
            workers,
            open: Mutex::default(),
            shown: Arc::default(),
        }
    }

    /// Prepares what `settings` want: binds and reads what is new, and changes nothing. What is bound does
    /// not listen yet.
    ///
    /// # Errors
    /// [`BindError`]; what was bound is closed again.
    pub(super) fn prepare(&self, settings: &Settings) -> Result<Plan, BindError> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let limits = settings.limits;
        if open.iter().all(|open| open.limits.connections != limits.connections) {
            self.room.warn_if_below(limits.connections);
        }
        let admin = settings.admin.iter().map(|admin| &admin.address);
        let all: Vec<_> = settings.listeners.iter().map(|wanted| &wanted.address).chain(admin).collect();
        let mut plan = Plan { changed: Vec::new(), new: Vec::new(), gone: Vec::new(), limits };
        for wanted in &settings.listeners {
            match open.iter().find(|open| open.listener.can_become(wanted)) {
                Some(open) if open.listener.settings() == wanted && open.limits == limits => {}
                Some(open) => {
                    plan.changed.push((wanted.name.clone(), open.listener.prepare(wanted, &limits)?));
                }
                None => {
                    // Ours, which goes: its port may be shared for the moment in which both are there.
                    let mut listeners = open.iter().map(|open| &open.listener);
                    let follows = listeners.find(|open| open.address().collides_with(&wanted.address));
                    let workers = self.workers.len();
                    let inherited = (&*self.inherited, all.as_slice());
                    plan.new.push(Listener::bind(wanted, &limits, workers, &self.room, follows, inherited)?);
                }
            }
        }
        let stays = |open: &Open| settings.listeners.iter().any(|wanted| open.listener.can_become(wanted));
        plan.gone = open.iter().filter(|open| !stays(open)).map(|open| open.listener.name().into()).collect();
        Ok(plan)
    }

    /// The last that can fail: sockets of paths get their permissions, and the new listeners listen. To be
    /// applied at once: connections wait in their queues from here on, and would be reset if nothing came of it.
    ///
    /// # Errors
    /// [`BindError`]; the plan is of no use then.
    pub(super) fn open(&self, plan: &Plan) -> Result<(), BindError> {
        plan.new.iter().try_for_each(Listener::probe)?;
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let permitted = open.iter().filter_map(|open| {
            let (_, change) = plan.changed.iter().find(|(name, _)| name == open.listener.name())?;
            Some((&open.listener, change.settings()))
        });
        // A certificate that changes is no reason to touch a file.
        let is_other =
            |(open, wanted): &(&Listener, &listen::Settings)| open.settings().address != wanted.address;
        let new = plan.new.iter().filter(|new| new.takes_over()).map(|new| (new, new.settings()));
        let mut permitted = permitted.filter(is_other).chain(new);
        let permitting = permitted.try_for_each(|(listener, wanted)| listener.permit(wanted));
        let opened = permitting.and_then(|()| plan.new.iter().try_for_each(Listener::listen));
        if opened.is_err() {
            let is_touched = |listener: &Listener| {
                let has_changed = plan.changed.iter().any(|(name, _)| name == listener.name());
                has_changed || plan.new.iter().any(|new| new.address().is_at(listener.address()))
            };
            for Open { listener, .. } in open.iter().filter(|open| is_touched(&open.listener)) {
                if let Err(error) = listener.permit(listener.settings()) {
                    tracing::warn!("{error}");
                }
            }
        }
        opened
    }

    /// Puts `plan` in force.
    pub(super) fn apply(&self, plan: Plan) {
        let Plan { changed, new, gone, limits } = plan;
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        new.iter().for_each(Listener::take_over);
        for (name, change) in changed {
            if let Some(open) = open.iter_mut().find(|open| open.listener.name() == name) {
                open.listener.apply(change);
                open.limits = limits;
                self.follow(open);
            }
        }
        open.retain(|open| {
            let is_gone = gone.iter().any(|name| name == open.listener.name());
            if is_gone {
                open.listener.close();
            }
            !is_gone
        });
        for listener in new {
            let mut added = Open { listener, limits, follower: None };
            for worker in &self.workers {
                // A worker that is gone is about to stop with all the others.
                if let Some(share) = added.listener.share() {
                    let _ = worker.send(share);
                }
            }
            self.follow(&mut added);
            open.push(added);
        }
        self.shown.store(Arc::new(open.iter().map(|open| count(&open.listener)).collect()));
    }

    /// Lets go of sockets that workers have: nobody follows any more.
    pub(super) fn release(&self) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.iter_mut().for_each(|open| open.listener.release());
    }

    fn follow(&self, open: &mut Open) {
        if let Some(before) = open.follower.take() {
            before.abort();
        }
        let follower = open.listener.follower();
        let following = follower.map(|follower| self.control.spawn(listen::tls::follow(vec![follower])));
        open.follower = following.map(|task| task.abort_handle());
    }

    /// Names and addresses.
    pub(super) fn addresses(&self) -> Vec<(String, Address)> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.iter().map(|open| (open.listener.name().to_owned(), open.listener.address().clone())).collect()
    }
}

fn count(listener: &Listener) -> ListenerCount {
    ListenerCount {
        name: listener.name().to_owned(),
        open: listener.open(),
        shards: listener.shards(),
        rosters: listener.rosters(),
        certificates: listener.certificates(),
    }
}
