//! `docs/operating.md` is true: its settings are all there are, each sentence that the daemon may
//! refuse to start with is explained, and a backup is restored as it says.

mod common;

use std::{
    collections::BTreeSet,
    fs::{self, DirBuilder},
    io::{Read, Write},
    os::unix::{
        fs::{DirBuilderExt, PermissionsExt},
        net::UnixStream,
    },
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
};

use common::{Host, NETNSD, clear_daemon_environment, same, skip::has};
use serde_json::{Value, json};
use sqlx::{ConnectOptions, Connection, Row, sqlite::SqliteConnectOptions};

fn document() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/operating.md")).unwrap()
}

/// The rows of the table below a heading, cell by cell.
fn table<'a>(document: &'a str, heading: &str) -> Vec<Vec<&'a str>> {
    let (_, section) = document.split_once(&format!("# {heading}\n")).unwrap();
    let section = section.split("\n#").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with('|')).skip(2);
    rows.map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect()
}

/// The pieces of text that are code.
fn code(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

#[test]
fn settings_table_is_complete() {
    let document = document();
    let rows = table(&document, "Settings");
    let mut command = Command::new(NETNSD);
    clear_daemon_environment(&mut command);
    // Wide enough that no help is wrapped.
    command.env("COLUMNS", "1000").arg("--help");
    let help = String::from_utf8(command.output().unwrap().stdout).unwrap();
    let flags: Vec<&str> = help
        .lines()
        .filter(|line| line.contains("[env: "))
        .collect();
    assert_eq!(
        flags.len() + 1,
        rows.len(),
        "each flag has a row, and NETNSD_LOG has one"
    );
    for (line, row) in flags.iter().zip(&rows) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let flag = format!("{} {}", words[0], words[1].trim_matches(['<', '>']));
        let after = |what: &str| {
            line.split_once(what)
                .map(|(_, rest)| rest.split([',', ']']).next().unwrap())
        };
        assert_eq!(code(row[0]), [flag], "{line}");
        assert_eq!(code(row[1]), [after("[env: ").unwrap()], "{line}");
        let key = words[0].trim_start_matches("--").replace('-', "_");
        assert_eq!(
            code(row[2]),
            if key == "config" {
                vec![]
            } else {
                vec![key.as_str()]
            },
            "{line}"
        );
        assert_eq!(
            row[3].replace('`', ""),
            after("[default: ").unwrap_or("none"),
            "{line}"
        );
    }
}

#[test]
fn sample_and_manual_pages_name_every_setting() {
    let read = |name: &str| {
        fs::read_to_string(
            Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("../packaging")
                .join(name),
        )
        .unwrap()
    };
    let (sample, page) = (read("netnsd.toml"), read("netnsd.toml.5"));
    let mut host = Host::new();
    let manual = host.dir().join("man");
    let mut command = Command::new(NETNSD);
    clear_daemon_environment(&mut command);
    let written = command.arg("man").arg(&manual).output().unwrap();
    assert!(written.status.success(), "{written:?}");
    let daemon = fs::read_to_string(manual.join("netnsd.8")).unwrap();
    for page in ["netnsd-try.8", "netnsd-restore.8"] {
        assert!(manual.join(page).exists(), "{page}");
    }
    for row in table(&document(), "Settings") {
        if let [key] = code(row[2])[..] {
            assert!(sample.contains(&format!("\n# {key} = ")), "{key}");
            assert!(page.contains(&format!("\n.BI {key} ")), "{key}");
        }
        if let [flag] = code(row[0])[..] {
            let name = flag.split(' ').next().unwrap().replace('-', "\\-");
            assert!(daemon.contains(&name), "{name}");
        }
    }
    // The daemon accepts the sample, and all of its lines without the #. It refuses the latter for
    // the files that they name.
    let config = host.dir().join("netnsd.toml");
    let lines = sample.lines().map(|line| {
        let setting = line.strip_prefix("# ");
        setting
            .filter(|line| {
                line.starts_with("[[")
                    || line
                        .split_once(" = ")
                        .is_some_and(|(key, _)| !key.contains(' '))
            })
            .unwrap_or(line)
    });
    fs::write(
        &config,
        lines
            .collect::<Vec<_>>()
            .join("\n")
            .replace("\"lab\"", "\"0\""),
    )
    .unwrap();
    let refused = host.sh(&format!("'{NETNSD}' --config '{}'", config.display()));
    let text = String::from_utf8_lossy(&refused.stderr);
    assert!(text.contains("/etc/netnsd/"), "{text}");
    fs::write(&config, sample).unwrap();
    host.start_with(|command| {
        command.arg("--config").arg(config);
    });
}

#[test]
fn documented_configuration_is_valid() {
    let document = document();
    let toml = document
        .split("```toml\n")
        .nth(1)
        .unwrap()
        .split("```")
        .next()
        .unwrap();
    let mut host = Host::new();
    let (config, token) = (host.dir().join("netnsd.toml"), host.dir().join("token"));
    fs::write(&token, "secret\n").unwrap();
    fs::write(
        &config,
        toml.replace("/etc/netnsd/token", token.to_str().unwrap())
            .replace(":8080", ":0"),
    )
    .unwrap();
    host.start_with(|command| {
        command.arg("--config").arg(config);
    });
    let listen = host.get("/v1").ok()["listen"].clone();
    assert!(
        listen[1].as_str().unwrap().starts_with("http://127.0.0.1:"),
        "{listen}"
    );
    assert!(host.log().starts_with('{'), "{}", host.log());
}

#[test]
fn every_metric_is_documented() {
    let host = Host::started();
    // Counters of things that never happened are absent.
    host.put("/v1/namespaces/net0", json!({})).ok();
    let mut stream = UnixStream::connect(host.socket()).unwrap();
    write!(
        stream,
        "GET /metrics?links=true HTTP/1.1\r\nHost: netnsd\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    // The names that queries use: a counter's and an info's samples have suffixes (OpenMetrics 1.0,
    // "Metric Types").
    let sample = |line: &str| {
        let (family, kind) = line.strip_prefix("# TYPE ")?.split_once(' ')?;
        Some(match kind {
            "counter" => format!("{family}_total"),
            "info" => format!("{family}_info"),
            _ => family.to_owned(),
        })
    };
    let metrics = answer.lines().filter_map(sample);
    let document = document();
    let rows = table(&document, "Metrics");
    let explained = rows.iter().flat_map(|row| code(row[0]));
    assert_eq!(
        metrics.collect::<BTreeSet<_>>(),
        explained.map(str::to_owned).collect()
    );
}

#[test]
fn dashboard_asks_for_documented_metrics() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/grafana.json");
    let dashboard: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let document = document();
    let rows = table(&document, "Metrics");
    let documented: BTreeSet<&str> = rows.iter().flat_map(|row| code(row[0])).collect();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels
        .iter()
        .flat_map(|panel| panel["targets"].as_array().unwrap());
    let mut asked = BTreeSet::new();
    for target in targets {
        let query = target["expr"].as_str().unwrap();
        let words = query.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let names =
            words.filter(|word| word.starts_with("netnsd_") || word.starts_with("process_"));
        asked.extend(names.map(|name| name.strip_suffix("_bucket").unwrap_or(name)));
    }
    let unknown: Vec<_> = asked.difference(&documented).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
    let of_netnsd = documented.iter().filter(|name| name.starts_with("netnsd_"));
    let unused: Vec<_> = of_netnsd.filter(|name| !asked.contains(*name)).collect();
    assert!(unused.is_empty(), "{unused:?}");
}

/// Returns true if a text matches a pattern, in which `…` stands for anything.
fn is(text: &str, pattern: &str) -> bool {
    let (first, rest) = pattern.split_once('…').unwrap_or((pattern, ""));
    let Some(mut text) = text.strip_prefix(first) else {
        return false;
    };
    for part in rest.split('…') {
        let Some((_, after)) = text.split_once(part) else {
            return false;
        };
        text = after;
    }
    pattern.contains('…') || text.is_empty()
}

#[test]
fn every_start_failure_is_documented() {
    let document = document();
    let patterns: Vec<&str> = table(&document, "Startup errors")
        .iter()
        .map(|row| code(row[0])[0])
        .collect();
    // Only a service manager that is set up otherwise brings this about.
    let mut unseen: Vec<&str> = patterns
        .iter()
        .copied()
        .filter(|text| !text.contains("service manager"))
        .collect();
    let mut explained = |output: Output| {
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success(), "{text}");
        // A warning may come before it.
        let text = text
            .lines()
            .last()
            .and_then(|line| line.strip_prefix("netnsd: "));
        let text = text.expect("its last line is a sentence of netnsd");
        // The first that fits, as a reader finds it.
        let pattern = patterns.iter().find(|pattern| is(text, pattern));
        let pattern =
            pattern.unwrap_or_else(|| panic!("docs/operating.md does not explain: {text}"));
        unseen.retain(|unseen| unseen != pattern);
    };

    let running = Host::started();
    let host = Host::new();
    let file = |name: &str, text: &str| {
        fs::write(host.dir().join(name), text).unwrap();
        host.dir().join(name).to_str().unwrap().to_owned()
    };
    let token = file("token", "secret\n");
    let (two, bad_toml, plain) = (
        file("two", "two words"),
        file("bad.toml", "state_dri = '/x'"),
        file("plain", ""),
    );
    let bad_rule = file("rule.toml", "[[access]]\nuser = '0'\nrole = 'king'");
    let long = format!("/{}", "x".repeat(200));
    for arguments in [
        &["--listen", "nonsense"][..],
        &["--listen", "192.0.2.1:80", "--token-file", &token],
        &["--listen", "127.0.0.1:0"],
        &["--listen", "127.0.0.1:0", "--token-file", "/nowhere"],
        &["--listen", "127.0.0.1:0", "--token-file", &two],
        &["--config", "/nowhere.toml"],
        &["--config", &bad_toml],
        &["--log-format", "xml"],
        &["--repair", "never"],
        &["--reconcile-interval-s", "0"],
        &["--tls-cert", &plain],
        &["--tls-cert", &plain, "--tls-key", &plain],
        &["--config", &bad_rule],
        &["--frobnicate"],
        &["--sockett"],
    ] {
        explained(host.netnsd().args(arguments).output().unwrap());
    }
    let plainly = || {
        let mut command = host.sandbox.command(NETNSD).unwrap();
        clear_daemon_environment(&mut command);
        command
    };
    explained(plainly().args(["--state-dir", ""]).output().unwrap());
    explained(plainly().args(["--socket", &long]).output().unwrap());
    explained(host.netnsd().env("NETNSD_LOG", "a=b=c").output().unwrap());
    let at = |state: &Path, socket: &Path| host.netnsd_with(state, socket).output().unwrap();
    explained(at(&host.dir().join("plain/state"), &host.socket()));
    let shared = host.dir().join("shared");
    fs::create_dir(&shared).unwrap();
    fs::set_permissions(&shared, fs::Permissions::from_mode(0o777)).unwrap();
    explained(at(&shared, &host.socket()));
    explained(at(&host.state_dir(), &running.socket()));
    explained(at(&host.state_dir(), plain.as_ref()));
    explained(at(&host.state_dir(), "/proc/netnsd/netnsd.sock".as_ref()));
    explained(at(&running.state_dir(), &host.socket()));

    // Without capabilities, as a user without any or as root who has given them away.
    let mut command = Command::new(NETNSD);
    if nix::unistd::geteuid().is_root() {
        command = Command::new("setpriv");
        command.args(["--bounding-set=-all", NETNSD]);
    }
    clear_daemon_environment(&mut command);
    explained(
        command
            .arg("--state-dir")
            .arg(host.dir().join("powerless"))
            .output()
            .unwrap(),
    );

    // A port that is taken, on the host that it is taken on.
    let mut taken = Host::new();
    taken.start_with(|command| {
        command.args(["--listen", "127.0.0.1:0", "--token-file", &token]);
    });
    let url = taken.get("/v1").ok()["listen"][1]
        .as_str()
        .unwrap()
        .to_owned();
    let mut command = taken.netnsd_with(&host.state_dir(), &host.socket());
    command.args([
        "--listen",
        url.trim_start_matches("http://"),
        "--token-file",
        &token,
    ]);
    explained(command.output().unwrap());

    // Databases that cannot be used.
    let with = |name: &str, make: &dyn Fn(&Path)| {
        let state = host.dir().join(name);
        DirBuilder::new().mode(0o700).create(&state).unwrap();
        make(&state.join("netnsd.db"));
        at(&state, &host.socket())
    };
    explained(with("damaged", &|database| {
        fs::write(database, [0x55; 8192]).unwrap()
    }));
    explained(with("directory", &|database| {
        fs::create_dir(database).unwrap()
    }));
    if has("sqlite3") {
        let newer = "UPDATE _sqlx_migrations SET version = 999999 WHERE version = 1";
        explained(with("newer", &|database| {
            let mut first = Host::new();
            first.start();
            first.terminate();
            fs::copy(first.state_dir().join("netnsd.db"), database).unwrap();
            host.run(&["sqlite3", database.to_str().unwrap(), newer]);
        }));
    } else {
        unseen.retain(|pattern| !pattern.contains("newer"));
    }
    assert!(unseen.is_empty(), "the daemon never says: {unseen:#?}");
}

/// A network, and a change of it.
fn network(host: &Host) -> Vec<String> {
    host.put(
        "/v1/namespaces/net0",
        json!({"sysctls": {"net.ipv4.ip_forward": 1}}),
    )
    .ok();
    host.put(
        "/v1/veths/pair",
        json!({"endpoints": [{"namespace": "net0", "addresses": ["10.0.0.1/24"]}, {}]}),
    )
    .ok();
    links(host)
}

fn change(host: &Host) {
    host.put("/v1/namespaces/net1", json!({})).ok();
    host.patch(
        "/v1/veths/pair/endpoints/0",
        json!({"namespace": "net1", "addresses": ["10.9.0.1/24"]}),
    )
    .ok();
    host.patch("/v1/namespaces/net0", json!({"sysctls": null}))
        .ok();
}

/// Returns the links and addresses of the network, as `ip` sees them.
fn links(host: &Host) -> Vec<String> {
    let names = host.run(&["ip", "netns", "list"]);
    let names: Vec<&str> = names
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    // The other end's index, after an @, is a new one each time, and the state in the second column
    // comes by itself.
    let script = "ip -br -4 addr | sed 's/@[^ ]*//' | awk '{$2 = \"\"; print}'; cat /proc/sys/net/ipv4/ip_forward";
    let inside = names
        .iter()
        .map(|name| host.run(&["ip", "netns", "exec", name, "sh", "-c", script]));
    inside
        .chain([names.join(" "), host.run(&["sh", "-c", script])])
        .collect()
}

#[test]
fn document_restores_the_network_at_runtime() {
    let host = Host::started();
    let before = network(&host);
    let yaml = host.run(&[
        "sh",
        "-c",
        "command -v curl >/dev/null && curl -sSf --unix-socket \"$1\" -H 'Accept: application/yaml' http://netnsd/v1/topology || :",
        "sh",
        host.socket().to_str().unwrap(),
    ]);
    if yaml.is_empty() {
        return common::skip::skip("curl is not installed");
    }
    change(&host);
    assert_ne!(before, links(&host));
    let result = host
        .raw(
            "PUT",
            "/v1/topology",
            &[("content-type", "application/yaml")],
            yaml.into_bytes(),
        )
        .ok();
    assert_eq!(
        result["deleted"],
        json!([{"kind": "namespace", "name": "net1"}]),
        "{result}"
    );
    assert_eq!(before, links(&host));
}

/// The commands of the document that restore a database, for this host.
fn restore(host: &Host, backup: &Path) {
    let document = document();
    let block = document
        .split("```sh\n")
        .find(|block| block.starts_with("systemctl stop"))
        .unwrap();
    let lines: Vec<&str> = block.split("```").next().unwrap().lines().collect();
    let [_stop, files @ .., _start] = &lines[..] else {
        panic!("{lines:?}")
    };
    let state_dir = host.state_dir();
    let program = format!("'{NETNSD}' restore --state-dir {}", state_dir.display());
    let script = files.join("\n").replace("netnsd restore", &program);
    let script = script.replace("/backup/netnsd.db", backup.to_str().unwrap());
    let output = host.sh(&format!("set -e; {script}"));
    assert!(output.status.success(), "{script}: {output:?}");
}

/// Writes what `GET /v1/backup` answers to a file.
fn back_up(host: &Host, file: &Path) {
    let copy = host.typed(async |client| {
        let answer = client.request("GET".parse().unwrap(), "/v1/backup", &[], "");
        answer.await.unwrap()
    });
    assert_eq!(
        (copy.status.as_u16(), copy.header("content-type")),
        (200, Some("application/vnd.sqlite3"))
    );
    fs::write(file, &copy.body).unwrap();
}

/// Runs SQL on a database, and returns the first column of the first row.
fn query(database: &Path, sql: &'static str) -> String {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let options = SqliteConnectOptions::new().filename(database);
        let mut connection = options.connect().await.unwrap();
        let row = sqlx::query(sql).fetch_optional(&mut connection).await;
        let text = row.unwrap().map(|row| row.get::<String, _>(0));
        connection.close().await.unwrap();
        text.unwrap_or_default()
    })
}

#[test]
fn backup_restores_the_database() {
    let mut host = Host::started();
    let before = network(&host);
    let macs = |host: &Host| {
        host.run(&[
            "ip",
            "netns",
            "exec",
            "net0",
            "cat",
            "/sys/class/net/veth0/address",
        ])
    };
    let mac = macs(&host);
    let made = host.dir().join("made.db");
    back_up(&host, &made);
    assert_eq!(query(&made, "PRAGMA integrity_check"), "ok");
    let mut backups = vec![made];
    if has("sqlite3") {
        let live = host.dir().join("live.db");
        let database = host.state_dir().join("netnsd.db");
        let command = format!(".backup {}", live.display());
        host.run(&["sqlite3", database.to_str().unwrap(), &command]);
        backups.push(live);
    }
    // As a snapshot of the file system has it: not closed.
    let snapshot = host.dir().join("snapshot.db");
    host.kill9();
    for suffix in ["", "-wal"] {
        let name = |name: &str| format!("{name}{suffix}");
        let from = host.state_dir().join(name("netnsd.db"));
        fs::copy(from, host.dir().join(name("snapshot.db"))).unwrap();
    }
    backups.push(snapshot);
    host.start();
    host.terminate();
    let cold = host.dir().join("cold.db");
    fs::copy(host.state_dir().join("netnsd.db"), &cold).unwrap();
    backups.push(cold);
    for backup in backups {
        host.power_cycle();
        host.start();
        change(&host);
        host.terminate();
        restore(&host, &backup);
        host.reboot();
        same(&before, &links(&host));
        assert_eq!(macs(&host), mac);
        let states = host.get("/v1/ready").ok();
        assert_eq!(states["states"]["in_sync"], 2, "{states}");
        host.terminate();
    }
    // The replaced database can be restored too.
    let replaced = host.state_dir().join("netnsd.replaced.db");
    restore(&host, &replaced);
    host.reboot();
    host.get("/v1/namespaces/net1").ok();
    host.terminate();
    // A machine on which netnsd never ran.
    fs::remove_dir_all(host.state_dir()).unwrap();
    restore(&host, &host.dir().join("made.db"));
    host.reboot();
    same(&before, &links(&host));
    assert_eq!(macs(&host), mac);
}

#[test]
fn backup_under_load_has_every_answered_write() {
    const BACKUPS: usize = 5;
    let mut host = Host::started();
    let (done, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    let socket = host.socket();
    let backups: Vec<(usize, PathBuf)> = std::thread::scope(|scope| {
        scope.spawn(|| {
            let client = netnsd_client::Client::unix(&socket);
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            for i in 0.. {
                let path = format!("/v1/namespaces/n{i}");
                let sending = client.request("PUT".parse().unwrap(), &path, &[], "");
                assert_eq!(runtime.block_on(sending).unwrap().status.as_u16(), 201);
                answered.store(i + 1, Ordering::SeqCst);
                if done.load(Ordering::SeqCst) {
                    return;
                }
            }
        });
        let backups = (0..BACKUPS).map(|i| {
            host.until("a write was answered", || {
                answered.load(Ordering::SeqCst) > i * 3
            });
            let least = answered.load(Ordering::SeqCst);
            let file = host.dir().join(format!("{i}.db"));
            back_up(&host, &file);
            (least, file)
        });
        let backups = backups.collect();
        done.store(true, Ordering::SeqCst);
        backups
    });
    let left = fs::read_dir(host.state_dir()).unwrap();
    let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    assert!(
        left.iter()
            .all(|name| !name.to_string_lossy().contains("backup")),
        "{left:?}"
    );
    host.terminate();
    for (least, file) in backups {
        assert_eq!(query(&file, "PRAGMA integrity_check"), "ok");
        restore(&host, &file);
        host.reboot();
        let listed = host.get("/v1/namespaces?limit=10000").ok();
        let count = listed["items"].as_array().unwrap().len();
        assert!(count >= least, "{count} of {least}");
        for i in 0..count {
            host.get(&format!("/v1/namespaces/n{i}")).ok();
        }
        host.terminate();
    }
}

#[test]
fn invalid_backup_is_refused_and_changes_nothing() {
    let mut host = Host::started();
    let before = network(&host);
    let good = host.dir().join("good.db");
    back_up(&host, &good);
    let database = host.state_dir().join("netnsd.db");
    let restore = |host: &Host, file: &Path, state_dir: &Path| {
        let mut command = host.sandbox.command(NETNSD).unwrap();
        clear_daemon_environment(&mut command);
        let output = command
            .arg("restore")
            .arg(file)
            .arg("--state-dir")
            .arg(state_dir)
            .output()
            .unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        (output.status.code(), text)
    };
    let refused = |host: &Host, file: &Path, said: &str| {
        let (code, text) = restore(host, file, &host.state_dir());
        assert_eq!(code, Some(1), "{text}");
        assert!(
            text.contains(said) && text.lines().count() == 1,
            "{said}: {text}"
        );
    };
    let pid = host.pid().to_string();
    refused(
        &host,
        &good,
        &format!("process {pid}, holds the state directory"),
    );
    host.terminate();

    let content = fs::read(&database).unwrap();
    let file = |name: &str, content: &[u8]| {
        let path = host.dir().join(name);
        fs::write(&path, content).unwrap();
        path
    };
    let copy = fs::read(&good).unwrap();
    refused(&host, &host.dir().join("none.db"), "No such file");
    refused(&host, host.dir(), "Is a directory");
    refused(
        &host,
        &file("empty.db", b""),
        "empty.db cannot be restored: it is not a database of netnsd",
    );
    let yaml = file("network.yaml", b"namespaces: []\n".repeat(100).as_slice());
    refused(
        &host,
        &yaml,
        "network.yaml cannot be restored: it is damaged: ",
    );
    let half = file("half.db", &copy[..copy.len() / 2]);
    refused(&host, &half, "half.db cannot be restored: it is damaged: ");
    let mut bytes = copy.clone();
    let end = bytes.len();
    bytes[end / 2..end / 2 + 4096].fill(0x55);
    refused(
        &host,
        &file("bad.db", &bytes),
        "bad.db cannot be restored: it is damaged: ",
    );
    let other = file("other.db", b"");
    query(&other, "CREATE TABLE resources (uid TEXT)");
    refused(
        &host,
        &other,
        "other.db cannot be restored: it is not a database of netnsd",
    );
    let foreign = file("foreign.db", &copy);
    query(
        &foreign,
        "UPDATE _sqlx_migrations SET checksum = x'00' WHERE version = 1",
    );
    refused(
        &host,
        &foreign,
        "foreign.db cannot be restored: it is not a database of netnsd",
    );
    let newer = file("newer.db", &copy);
    query(
        &newer,
        "UPDATE _sqlx_migrations SET version = 99 WHERE version = 10",
    );
    refused(
        &host,
        &newer,
        "newer.db cannot be restored: it was written by a newer netnsd (its schema is version 99)",
    );
    let unreadable = file("unreadable.db", &copy);
    query(
        &unreadable,
        r#"UPDATE resources SET desired = '{"name": 1}'"#,
    );
    refused(
        &host,
        &unreadable,
        "unreadable.db cannot be restored: it is damaged: ",
    );

    assert_eq!(fs::read(&database).unwrap(), content);
    let left = fs::read_dir(host.state_dir()).unwrap();
    let mut left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["lock", "netnsd.db"]);
    host.reboot();
    same(&before, &links(&host));
}

#[test]
fn full_disk_refuses_backup_and_restore() {
    let mut host = Host::new();
    let small = Path::new("/run/small/state");
    let full = host.sh("mkdir /run/small && mount -t tmpfs -o size=512k tmpfs /run/small");
    assert!(full.status.success(), "{full:?}");
    let start = |host: &Host| host.netnsd_with(small, &host.socket());
    host.start_as(start(&host));
    host.put("/v1/namespaces/net0", json!({})).ok();
    let good = host.dir().join("good.db");
    back_up(&host, &good);
    host.sh("dd if=/dev/zero of=/run/small/filler bs=4k 2>/dev/null");
    host.get("/v1/backup")
        .refused(503, "store_unavailable", None);
    let left = host.run(&["ls", "/run/small/state"]);
    assert!(!left.contains("backup"), "{left}");
    host.terminate();
    let content = host.run(&["md5sum", "/run/small/state/netnsd.db"]);
    let command = format!(
        "'{NETNSD}' restore --state-dir {} {}",
        small.display(),
        good.display()
    );
    let refused = host.sh(&command);
    let text = String::from_utf8_lossy(&refused.stderr);
    assert!(
        refused.status.code() == Some(1) && text.contains("No space left"),
        "{text}"
    );
    assert_eq!(host.run(&["md5sum", "/run/small/state/netnsd.db"]), content);
    host.sh("rm /run/small/filler");
    assert!(host.sh(&command).status.success());
    host.start_as(start(&host));
    host.get("/v1/namespaces/net0").ok();
}
