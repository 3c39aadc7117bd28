//! Notifications to the service manager (sd_notify(3)).

use sd_notify::NotifyState;

/// Sends states to the service manager; does nothing if there is none (`NOTIFY_SOCKET` is unset).
pub(crate) fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, ?states, "cannot notify the service manager");
    }
}
