//! Records requests in the audit log.
//!
//! The engine records a write in the commit of what it changes, and `exec` a command before it
//! runs; both leave their entry in the request's [`AuditDraft`]. [`record_answer`] records the
//! rest: requests that were refused, failed, or never reached the engine.

use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock},
};

use axum::{
    extract::Request,
    http::{Method, StatusCode},
};
use jiff::Timestamp;
use netnsd_api::AuditEntry;

use super::{App, headers::REQUEST_ID};
use crate::{
    access::{AuditDraft, Caller, SocketPeer, network_of},
    engine::RecordError,
    model::format_rfc3339,
    store::AuxRecord,
};

/// Longest path in an entry, in characters.
const PATH_CHARS: usize = 1024;

/// Parts of a request that its audit entry has.
pub(super) struct RequestInfo {
    pub method: Method,
    pub path: String,
    peer: Option<SocketPeer>,
    id: String,
}

impl RequestInfo {
    pub fn new(request: &Request) -> Self {
        let id = request.headers().get(REQUEST_ID);
        Self {
            method: request.method().clone(),
            path: request.uri().path().to_owned(),
            peer: request.extensions().get().cloned(),
            id: id.and_then(|id| id.to_str().ok()).unwrap_or("-").to_owned(),
        }
    }

    /// Returns the entry, without its id and its status.
    pub fn audit_entry(&self, caller: Option<&Caller>) -> AuditEntry {
        AuditEntry {
            id: 0,
            time: format_rfc3339(Timestamp::now()),
            caller: caller.map(|caller| caller.name.clone()),
            role: caller.map(|caller| caller.role),
            from: match &self.peer {
                Some(SocketPeer::Tcp { address, .. }) => address.to_string(),
                Some(SocketPeer::Unix(_)) | None => "unix".into(),
            },
            method: self.method.to_string(),
            path: self.path.chars().take(PATH_CHARS).collect(),
            argv: None,
            status: 0,
            count: 1,
            request_id: self.id.clone(),
        }
    }
}

/// Marks a response whose status line is sent before its request is carried out: the handler
/// records the outcome at the end of the body, and sets its status here for the log.
#[derive(Debug, Clone, Default)]
pub(super) struct Unfinished(Arc<OnceLock<u16>>);

impl Unfinished {
    /// Sets the status of the outcome.
    pub fn finish(&self, status: u16) {
        let _ = self.0.set(status); // the first one stays
    }

    /// Returns the status of the outcome; `None` until it is known.
    pub fn status(&self) -> Option<u16> {
        self.0.get().copied()
    }
}

/// Returns true if a request was refused for want of rights.
pub(super) fn is_refusal(status: StatusCode) -> bool {
    matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
}

/// Records a request before its response is sent, unless the engine has recorded it. `audited` is
/// true if its route is audited; refused requests always are.
///
/// # Errors
/// The reason for which it is not recorded, which is in the log too.
pub(super) async fn record_answer(
    app: &App,
    info: &RequestInfo,
    caller: Option<&Caller>,
    audited: bool,
    status: StatusCode,
) -> Result<(), RecordError> {
    match caller.and_then(|caller| caller.audit.as_deref()) {
        Some(draft) => record(app, draft, status.as_u16()).await,
        None if audited || is_refusal(status) => {
            let entry = AuditEntry {
                status: status.as_u16(),
                ..info.audit_entry(caller)
            };
            write_entry(app, entry).await
        }
        None => Ok(()),
    }
}

/// Records the status of a request's response, unless an entry with that status is recorded.
///
/// # Errors
/// The reason for which it is not recorded, which is in the log too.
pub(super) async fn record(app: &App, draft: &AuditDraft, status: u16) -> Result<(), RecordError> {
    if draft.is_recorded_with(status) {
        Ok(())
    } else {
        write_entry(app, draft.with_status(status)).await
    }
}

async fn write_entry(app: &App, entry: AuditEntry) -> Result<(), RecordError> {
    let AuditEntry {
        method,
        path,
        status,
        from,
        ..
    } = entry.clone();
    let written = if status < 400 {
        app.engine.record_aux(AuxRecord::PutAudit(entry)).await
    } else {
        app.engine.record_refusal(entry, source_of(from)).await
    };
    written.inspect_err(|error| {
        tracing::error!(%error, method, path, status, "cannot write the audit log");
    })
}

/// Returns the source by which failed requests are counted: the network of an address, or `unix`.
fn source_of(from: String) -> String {
    match from.parse() {
        Ok(address) => network_of(SocketAddr::ip(&address)).to_string(),
        Err(_) => from,
    }
}
