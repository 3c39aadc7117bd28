//! Routes of bearer tokens and the audit log.

use std::sync::Arc;

use axum::{
    Extension,
    extract::{Path, RawQuery, Request, State},
    http::{HeaderValue, StatusCode, header},
    response::IntoResponse,
};
use jiff::{Timestamp, fmt::temporal::Pieces};
use netnsd_api::{Code, FieldError, IssuedToken, Items, Name, NewToken, Token, parse};
use serde_json::Value;

use super::{
    App, body,
    json::Json,
    problem::Failure,
    query::{self, Query},
    resource::{Answer, internal},
};
use crate::{
    access::{self, Caller},
    model::format_rfc3339,
    store::AuxRecord,
};

pub(super) async fn list(State(app): State<App>, RawQuery(query): RawQuery) -> Answer {
    query::none(query.as_deref())?;
    let items = app.access.tokens();
    Ok(Json(Items { items }).into_response())
}

fn find_token(app: &App, name: &str) -> Result<Token, Failure> {
    let mut tokens = app.access.tokens().into_iter();
    let found = tokens.find(|token| token.name.as_str() == name);
    found.ok_or_else(|| Failure::new(Code::NotFound, format!("there is no token {name:?}")))
}

pub(super) async fn show(
    State(app): State<App>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
) -> Answer {
    query::none(query.as_deref())?;
    Ok(Json(find_token(&app, &name)?).into_response())
}

pub(super) async fn create(
    State(app): State<App>,
    Extension(caller): Extension<Arc<Caller>>,
    RawQuery(query): RawQuery,
    request: Request,
) -> Answer {
    query::none(query.as_deref())?;
    let mut new: NewToken = parse(&Value::Object(body::object(request).await?))?;
    new.check()?;
    let now = Timestamp::now();
    new.expires_at = new
        .expires_at
        .map(|text| read_expiry(&text, now))
        .transpose()?;
    let name: Name = new.name.clone();
    let (row, secret) = access::issue_token(new, now).map_err(internal)?;
    let issued = IssuedToken {
        token: row.token.clone(),
        secret,
    };

    // First in memory, where it reserves the name; taken out again if it cannot be stored.
    if !app.access.add(row.clone()) {
        return Err(Failure::new(
            Code::AlreadyExists,
            format!("token {name} exists already: delete it first"),
        ));
    }
    if let Err(error) = app.engine.record_aux(AuxRecord::PutToken(row)).await {
        app.access.remove(name.as_str());
        return Err(error.into());
    }
    tracing::info!(token = %name, by = caller.name, "token created");

    let mut response = (StatusCode::CREATED, Json(issued)).into_response();
    if let Ok(path) = HeaderValue::from_str(&format!("/v1/tokens/{name}")) {
        response.headers_mut().insert(header::LOCATION, path);
    }
    Ok(response)
}

/// Reads the time at which a token expires, and returns it in UTC.
fn read_expiry(text: &str, now: Timestamp) -> Result<String, FieldError> {
    let invalid = |why: &str| {
        let detail = format!("{text:?} {why}: write a time to come as 2027-01-31T12:00:00Z");
        FieldError::new(Code::InvalidField, "/expires_at", detail)
    };
    let at: Timestamp = text.parse().map_err(|_| match Pieces::parse(text) {
        // A `Timestamp` ends before the year 9999 does in some time zones.
        Ok(pieces) if pieces.offset().is_some() && pieces.date().year() > 0 => invalid(&format!(
            "is after {}, the latest time there is",
            format_rfc3339(Timestamp::MAX)
        )),
        _ => invalid("is not an RFC 3339 timestamp"),
    })?;
    if at > now {
        Ok(format_rfc3339(at))
    } else {
        Err(invalid("has passed"))
    }
}

pub(super) async fn delete(
    State(app): State<App>,
    Extension(caller): Extension<Arc<Caller>>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
) -> Answer {
    query::none(query.as_deref())?;
    let name = find_token(&app, &name)?.name;
    app.engine
        .record_aux(AuxRecord::DeleteToken(name.to_string()))
        .await?;
    app.access.remove(name.as_str());
    tracing::info!(token = %name, by = caller.name, "token revoked");
    Ok(StatusCode::NO_CONTENT.into_response())
}

pub(super) async fn audit(State(app): State<App>, RawQuery(query): RawQuery) -> Answer {
    let mut query = Query::read(query.as_deref())?;
    let since = query.number("since", 0..=u64::MAX)?;
    let limit = query.limit()?;
    query.finish()?;
    let items = app.audit.read(since, limit).await?;
    Ok(Json(Items { items }).into_response())
}
