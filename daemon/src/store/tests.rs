use std::{collections::BTreeMap, sync::Arc};

use netnsd_api::{Kind, Mac, Namespace};

use super::*;
use crate::model::Spec;

fn row(uid: &str, name: &str) -> Row {
    let spec: Namespace = serde_json::from_value(serde_json::json!({"name": name})).unwrap();
    Row {
        uid: uid.into(),
        kind: Kind::Namespace,
        name: name.parse().unwrap(),
        generation: 1,
        created_at: "2026-11-24T20:11:04.512Z".parse().unwrap(),
        updated_at: "2026-11-24T20:11:04.512Z".parse().unwrap(),
        desired: Some(Arc::new(Spec::Namespace(spec))),
        applied: Vec::new(),
        prior: BTreeMap::from([("net.ipv4.ip_forward".parse().unwrap(), "0".into())]),
        adopt: true,
        macs: vec![Mac([2, 0, 0, 0, 0, 1])],
    }
}

fn put(row: Row) -> RowChange {
    RowChange::Put(Box::new(row))
}

fn rows<const N: usize>(rows: [RowChange; N]) -> Commit {
    Commit {
        rows: rows.into(),
        ..Commit::default()
    }
}

#[tokio::test]
async fn committed_rows_survive_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("netnsd.db");
    let mut store = Store::open(&path).await.unwrap();
    let deleted = Row {
        desired: None,
        applied: row("a", "net0")
            .desired
            .as_deref()
            .cloned()
            .into_iter()
            .collect(),
        ..row("a", "net0")
    };
    store.commit(&rows([put(row("a", "net0"))])).await.unwrap();
    // The name is taken again before the deleted resource is cleared away.
    store
        .commit(&rows([put(row("b", "net0")), put(deleted.clone())]))
        .await
        .unwrap();
    store.close().await;
    let mut store = Store::open(&path).await.unwrap();
    assert_eq!(
        store.load_resources().await.unwrap(),
        [deleted, row("b", "net0")]
    );
    store
        .commit(&rows([RowChange::Delete("a".into())]))
        .await
        .unwrap();
    assert_eq!(store.load_resources().await.unwrap(), [row("b", "net0")]);
}

#[tokio::test]
async fn failed_commit_records_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(&dir.path().join("netnsd.db")).await.unwrap();
    let twice = rows([put(row("a", "net0")), put(row("b", "net0"))]);
    store.commit(&twice).await.unwrap_err();
    assert_eq!(store.load_resources().await.unwrap(), []);
    store.commit(&rows([put(row("a", "net0"))])).await.unwrap();
}

#[tokio::test]
async fn failed_requests_do_not_displace_done_ones() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("netnsd.db");
    let mut store = Store::open(&path).await.unwrap();
    let entry = |id, status| AuditEntry {
        id,
        time: "2026-11-24T20:11:04.512Z".into(),
        caller: Some("uid 1000".into()),
        role: None,
        from: "unix".into(),
        method: "POST".into(),
        path: "/v1".into(),
        argv: Some(vec!["ip".into(), "a b".into()]),
        status,
        count: 7,
        request_id: "-".into(),
    };
    store
        .commit(&Commit {
            aux_records: vec![AuxRecord::PutAudit(entry(1, 200))],
            ..Commit::default()
        })
        .await
        .unwrap();
    let flood = "WITH RECURSIVE n(i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < 40959)
        INSERT INTO audit (id, time, origin, method, path, status, request_id) SELECT i, '', '', '', '', 403, '' FROM n";
    sqlx::raw_sql(flood)
        .execute(&mut store.connection)
        .await
        .unwrap();
    store
        .commit(&Commit {
            aux_records: vec![AuxRecord::PutAudit(entry(40960, 401))],
            ..Commit::default()
        })
        .await
        .unwrap();
    let kept = AuditLog::new(&path).read(Some(0), 50_000).await.unwrap();
    assert_eq!(
        (&kept[0], kept.last().unwrap(), kept.len()),
        (&entry(1, 200), &entry(40960, 401), 1 + 4096)
    );
}

#[tokio::test]
async fn replaced_file_refuses_commits() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("netnsd.db");
    let mut store = Store::open(&path).await.unwrap();
    for name in ["netnsd.db", "netnsd.db-wal"] {
        let (file, away) = (dir.path().join(name), dir.path().join("away"));
        fs::rename(&file, &away).unwrap();
        let error = store
            .commit(&rows([put(row("a", "net0"))]))
            .await
            .unwrap_err();
        assert!(
            matches!(&error, StoreError::Replaced { path } if *path == file),
            "{error}"
        );
        fs::copy(&away, &file).unwrap();
        store
            .commit(&rows([put(row("a", "net0"))]))
            .await
            .unwrap_err();
        // The original file may come back.
        fs::rename(&away, &file).unwrap();
        store.commit(&rows([put(row("a", "net0"))])).await.unwrap();
    }
}

#[tokio::test]
async fn damaged_file_is_reported_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("netnsd.db");
    std::fs::write(&path, [0x55; 8192]).unwrap();
    assert!(matches!(
        Store::open(&path).await,
        Err(StoreError::Damaged { .. })
    ));
    assert_eq!(std::fs::read(&path).unwrap(), [0x55; 8192]);
}

#[tokio::test]
async fn newer_database_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("netnsd.db");
    let mut store = Store::open(&path).await.unwrap();
    sqlx::query("INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (999999, 'x', 1, x'00', 0)")
        .execute(&mut store.connection)
        .await
        .unwrap();
    store.close().await;
    assert!(matches!(
        Store::open(&path).await,
        Err(StoreError::Newer {
            version: 999_999,
            ..
        })
    ));
}

/// SQLite allows 32,766 bound values in a statement: many rows take several.
#[tokio::test]
async fn commit_of_10000_rows_and_events_is_recorded() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("netnsd.db");
    let mut store = Store::open(&path).await.unwrap();
    let events = (1..=10_000).map(|id| Event {
        id,
        time: "2026-11-24T20:11:04.512Z".into(),
        kind: netnsd_api::EventType::Created,
        resource: netnsd_api::EventResource {
            kind: Kind::Namespace,
            name: format!("net{id}"),
            uid: Some(id.to_string()),
        },
        detail: serde_json::json!({}),
    });
    let commit = Commit {
        rows: (1..=10_000)
            .map(|id| put(row(&id.to_string(), &format!("net{id}"))))
            .collect(),
        events: events.collect(),
        ..Commit::default()
    };
    store.commit(&commit).await.unwrap();
    assert_eq!(store.load_resources().await.unwrap().len(), 10_000);
    assert_eq!(store.load_newest_event_id().await.unwrap(), 10_000);
}
