//! Route of the backup: a copy of the database.

use std::{fs::File, io, sync::Arc};

use axum::{
    body::{Body, Bytes},
    extract::{RawQuery, State},
    http::{HeaderValue, header},
    response::IntoResponse,
};
use futures_util::stream;
use tokio::io::AsyncReadExt;

use super::{
    App, query,
    resource::{Answer, internal},
};

/// Media type of a SQLite database (IANA).
pub(super) const SQLITE: &str = "application/vnd.sqlite3";

/// Size of the pieces in which the copy is sent.
const CHUNK: usize = 64 << 10;

pub(super) async fn backup(State(app): State<App>, RawQuery(query): RawQuery) -> Answer {
    query::none(query.as_deref())?;
    // A task of its own: a client that leaves must not leave half a copy behind.
    let creating = tokio::spawn(async move { Arc::clone(&app).backups.create().await });
    let copy = creating.await.map_err(internal)??;
    let size = copy.metadata().map_err(internal)?.len();
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(SQLITE)),
        (header::CONTENT_LENGTH, HeaderValue::from(size)),
    ];
    Ok((headers, Body::from_stream(chunks(copy))).into_response())
}

/// Reads a file to its end, a piece when the client has taken the one before.
fn chunks(file: File) -> impl stream::Stream<Item = io::Result<Bytes>> {
    stream::unfold(tokio::fs::File::from_std(file), async |mut file| {
        let mut chunk = Vec::with_capacity(CHUNK);
        match file.read_buf(&mut chunk).await {
            Ok(0) => None,
            Ok(_) => Some((Ok(Bytes::from(chunk)), file)),
            Err(error) => Some((Err(error), file)),
        }
    })
}
