//! TCP by TLS: who is let in, and certificates read anew.

mod common;

use std::{fs, io::BufRead, path::Path};

use common::{Host, skip::has};
use nix::sys::signal::Signal;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
};
use serde_json::{Value, json};

/// An authority that vouches for certificates, written to files beside it.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new(dir: &Path, name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        fs::write(
            dir.join(format!("{name}.pem")),
            params.self_signed(&key).unwrap().pem(),
        )
        .unwrap();
        Self {
            issuer: Issuer::new(params, key),
        }
    }

    /// A certificate for a name, as `FILE.pem` and `FILE.key`.
    fn vouch(&self, dir: &Path, file: &str, name: &str) {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let key = KeyPair::generate().unwrap();
        fs::write(
            dir.join(format!("{file}.pem")),
            params.signed_by(&key, &self.issuer).unwrap().pem(),
        )
        .unwrap();
        fs::write(dir.join(format!("{file}.key")), key.serialize_pem()).unwrap();
    }
}

#[test]
fn client_certificates_are_reloaded() {
    if !has("curl") {
        return;
    }
    let mut host = Host::new();
    let dir = host.dir().to_owned();
    let (ours, clients) = (
        Authority::new(&dir, "ours"),
        Authority::new(&dir, "clients"),
    );
    ours.vouch(&dir, "server", "localhost");
    clients.vouch(&dir, "ci", "ci.example");
    clients.vouch(&dir, "nobody", "nobody.example");
    fs::write(dir.join("token"), "secret\n").unwrap();
    let config = format!(
        "listen = ['127.0.0.1:0']\ntoken_file = '{0}/token'\ntls_cert = '{0}/server.pem'\ntls_key = '{0}/server.key'\n\
         tls_client_ca = '{0}/clients.pem'\n[[access]]\ncertificate = 'ci.example'\nrole = 'operator'\nprefix = 'ci-'\n",
        dir.display()
    );
    fs::write(dir.join("netnsd.toml"), config).unwrap();
    host.start_with(|command| {
        command.arg("--config").arg(dir.join("netnsd.toml"));
    });
    let url = host.get("/v1").ok()["listen"][1]
        .as_str()
        .unwrap()
        .replace("127.0.0.1", "localhost");
    assert!(url.starts_with("https://"), "{url}");
    let curl = |authority: &str, more: &str| {
        let script = format!(
            "cd '{}' && curl -s4 -o out -w '%{{http_code}}' --cacert {authority}.pem {more} {url}",
            dir.display()
        );
        String::from_utf8(host.sh(&format!("{script}/v1/namespaces/ci-1")).stdout).unwrap()
    };
    let token = "-H 'authorization: Bearer secret'";
    let put = "-X PUT -H 'content-type: application/json' -d {}";
    assert_eq!(curl("ours", ""), "401");
    assert_eq!(curl("ours", token), "404");
    assert_eq!(
        curl("clients", token),
        "000",
        "another authority's word is not taken"
    );
    assert_eq!(
        curl("ours", &format!("--cert ci.pem --key ci.key {put}")),
        "201"
    );
    assert_eq!(curl("ours", "--cert nobody.pem --key nobody.key"), "401");
    assert_eq!(
        curl("ours", "--cert server.pem --key server.key"),
        "000",
        "its authority vouches for no clients"
    );
    // A web page of elsewhere, with whose requests the browser sends the certificate along.
    let origin = |origin: &str, more: &str| {
        curl(
            "ours",
            &format!("--cert ci.pem --key ci.key -H 'origin: {origin}' {more}"),
        )
    };
    let upgrade = "-H 'connection: upgrade' -H 'upgrade: websocket' -H 'sec-websocket-version: 13' \
                   -H 'sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==' --max-time 20";
    assert_eq!(origin("https://evil.example", ""), "403");
    assert_eq!(
        origin(
            "https://evil.example",
            &format!("{upgrade} {url}/v1/namespaces/ci-1/exec?argv=true -o out")
        ),
        "403403"
    );
    assert_eq!(origin(&url, ""), "200");
    assert_eq!(origin(&url, "-H 'origin: https://evil.example'"), "400");
    let audit = host.get("/v1/audit").ok();
    let put = audit["items"]
        .as_array()
        .unwrap()
        .iter()
        .find(|entry| entry["method"] == "PUT")
        .unwrap();
    assert_eq!(put["caller"], "certificate ci.example");

    // A stream that is open goes on while the certificate is read anew.
    let script = format!(
        "cd '{}' && exec curl -sN4 --cacert ours.pem {token} '{url}/v1/events?since=0'",
        dir.display()
    );
    let mut child = host.sandbox.command("sh").unwrap();
    let mut child = child
        .args(["-c", &script])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufReader::new(child.stdout.take().unwrap())
        .lines()
        .map(Result::unwrap);
    assert!(lines.any(|line| line.contains("ci-1")));
    let next = Authority::new(&dir, "next");
    next.vouch(&dir, "server", "localhost");
    host.signal(Signal::SIGHUP);
    host.until("the new certificate is shown", || {
        curl("next", token) == "200"
    });
    assert_eq!(curl("ours", token), "000");
    host.put("/v1/namespaces/ci-2", json!({})).ok();
    assert!(lines.any(|line| line.contains("ci-2")));
    child.kill().unwrap();
    child.wait().unwrap();
    // A file that is no good leaves the one that was.
    fs::write(dir.join("server.pem"), "nonsense").unwrap();
    host.signal(Signal::SIGHUP);
    host.until("it is told", || host.log().contains("the old one stays"));
    assert_eq!(curl("next", token), "200");
}

/// The lines of `docs/remote.md`, as they stand there but for where things are, and who starts the
/// daemon.
#[test]
fn documented_remote_setup_works() {
    if !has("curl") || !has("openssl") {
        return;
    }
    let mut host = Host::new();
    let dir = host.dir().display().to_string();
    let document =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/remote.md"))
            .unwrap();
    let lines = document
        .replace("/etc/netnsd", &dir)
        .replace("systemctl restart netnsd", "true")
        .replace("lab.example.org", "localhost");
    let blocks: Vec<&str> = lines
        .split("```sh\n")
        .skip(1)
        .filter_map(|block| Some(block.split_once("```")?.0))
        .collect();
    let output = host.sh(&format!("set -e\n{}", blocks[0]));
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    host.start_with(|command| {
        command.args(["--config", &format!("{dir}/netnsd.toml")]);
    });
    let issued = host
        .post(
            "/v1/tokens",
            json!({"name": "ci", "role": "operator", "prefix": "ci-"}),
        )
        .ok();
    host.put("/v1/namespaces/ci-1", json!({})).ok();
    fs::write(
        host.dir().join("ci.token"),
        issued["secret"].as_str().unwrap(),
    )
    .unwrap();
    let curl = blocks[2]
        .lines()
        .find(|line| line.starts_with("curl "))
        .unwrap();
    let output = host.sh(&format!(
        "cd '{dir}' && {}",
        curl.replacen("curl ", "curl -s4 ", 1)
    ));
    let list: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        list["items"][0]["name"],
        "ci-1",
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn without_tls_only_loopback_is_served() {
    let host = Host::new();
    fs::write(host.dir().join("token"), "secret\n").unwrap();
    let token = host.dir().join("token");
    let mut command = host.netnsd();
    let output = command
        .args(["--listen", "192.0.2.1:0", "--token-file"])
        .arg(&token)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(
        !output.status.success() && text.contains("--tls-cert"),
        "{text}"
    );
    let mut command = host.netnsd();
    let output = command.args(["--tls-cert", "/nowhere"]).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(
        !output.status.success() && text.contains("--tls-key"),
        "{text}"
    );
}
