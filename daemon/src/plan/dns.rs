//! Name resolution of a namespace: its files in `/etc/netns/NAME`.

use std::collections::BTreeMap;

use netnsd_api::{Dns, Name};

use super::{Phase, Planner, Task};
use crate::kernel::{DnsFile, FeatureOp};

/// First line of a file that netnsd wrote: a file without it is somebody else's.
const MARK: &str = "# written by netnsd";

/// Services of nsswitch.conf(5) that ask over a Unix socket or D-Bus, which no network namespace
/// separates: nss-resolve(8), nss-mymachines(8), nss-mdns.
fn leaves_the_namespace(service: &str) -> bool {
    matches!(service, "resolve" | "mymachines") || service.starts_with("mdns")
}

/// Returns the content of `/etc/netns/NAME/resolv.conf` (resolv.conf(5)).
fn resolv_conf(dns: &Dns) -> String {
    let mut text = format!("{MARK}\n");
    for server in &dns.nameservers {
        text += &format!("nameserver {server}\n");
    }
    for (word, values) in [("search", &dns.search), ("options", &dns.options)] {
        if !values.is_empty() {
            text += &format!("{word} {}\n", values.join(" "));
        }
    }
    text
}

/// Returns the content of `/etc/netns/NAME/nsswitch.conf`: the host's, in which `hosts` asks nobody
/// outside the namespace.
fn nsswitch_conf(host: Option<&str>) -> String {
    let Some(host) = host else {
        return format!("{MARK}\nhosts: files dns\n");
    };
    let mut text =
        format!("{MARK}: /etc/nsswitch.conf, in which hosts asks nobody outside the namespace\n");
    for line in host.lines() {
        match hosts_services(line) {
            Some(services) => text += &format!("hosts: {}\n", keep_inside(services)),
            None => text += &format!("{line}\n"),
        }
    }
    text
}

/// Returns the services of a line about `hosts`, as `process_line()` of glibc's nss/nss_database.c
/// takes it apart.
fn hosts_services(line: &str) -> Option<&str> {
    let line = line.split('#').next()?.trim_start();
    let services = line.strip_prefix("hosts")?;
    let separated = services.starts_with(|c: char| c == ':' || c.is_ascii_whitespace());
    separated.then(|| {
        services
            .trim_start_matches(|c: char| c == ':' || c.is_ascii_whitespace())
            .trim_end()
    })
}

/// Removes the services that leave the namespace, each with its `[STATUS=ACTION]`.
fn keep_inside(services: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let (mut removed, mut keeps) = (false, true);
    let mut rest = services;
    while let Some(first) = rest.chars().next() {
        let end = match first {
            '[' => rest.find(']').map_or(rest.len(), |at| at + 1),
            _ => rest
                .find(|c: char| c == '[' || c.is_ascii_whitespace())
                .unwrap_or(rest.len()),
        };
        let (word, after) = rest.split_at(end);
        if first != '[' {
            keeps = !leaves_the_namespace(word);
            removed |= !keeps;
        }
        kept.extend(keeps.then_some(word));
        rest = after.trim_start();
    }
    // Where `resolve` was all that asks a name server, `dns` does it instead.
    if removed && !kept.contains(&"dns") {
        kept.push("dns");
    }
    kept.join(" ")
}

impl Planner<'_> {
    /// Plans the files of `/etc/netns/NAME`; without `dns` those that netnsd wrote go.
    pub(super) fn plan_dns(
        &mut self,
        task: &Task<'_>,
        name: &Name,
        dns: Option<&Dns>,
        known: &BTreeMap<DnsFile, String>,
    ) {
        for file in DnsFile::ALL {
            let content = dns.map(|dns| match file {
                DnsFile::ResolvConf => resolv_conf(dns),
                DnsFile::Nsswitch => nsswitch_conf(self.seen.nsswitch.as_deref()),
            });
            match known.get(&file) {
                now if now == content.as_ref() => {}
                Some(now) if !now.starts_with(MARK) => {
                    if content.is_some() {
                        let path = format!("/etc/netns/{name}/{file}");
                        let reason =
                            format!("{path} exists, and netnsd did not write it: remove it first");
                        self.conflict_at(task, reason, "/dns".into());
                    }
                }
                _ => self.emit(
                    Phase::Dns,
                    task,
                    FeatureOp::Dns {
                        name: name.clone(),
                        file,
                        content,
                    }
                    .into(),
                ),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(line: &str) -> String {
        let text = nsswitch_conf(Some(line));
        assert!(text.starts_with(MARK), "{text}");
        text.lines().nth(1).unwrap().to_owned()
    }

    #[test]
    fn services_outside_the_namespace_are_removed_with_their_actions() {
        for (host, kept) in [
            // Fedora, Arch, Debian, Ubuntu, NixOS; and what glibc takes besides.
            (
                "hosts:      files myhostname mdns4_minimal [NOTFOUND=return] resolve [!UNAVAIL=return] dns",
                "files myhostname dns",
            ),
            (
                "hosts: mymachines resolve [!UNAVAIL=return] files myhostname dns",
                "files myhostname dns",
            ),
            (
                "hosts:          files mdns4_minimal [NOTFOUND=return] dns mymachines",
                "files dns",
            ),
            (
                "hosts: files resolve [ !UNAVAIL = return ] dns # comment resolve",
                "files dns",
            ),
            (
                "hosts: mymachines mdns [NOTFOUND=return] files [SUCCESS=merge] dns",
                "files [SUCCESS=merge] dns",
            ),
            (
                " hosts : files[NOTFOUND=continue]mdns6[NOTFOUND=return]dns",
                "files [NOTFOUND=continue] dns",
            ),
            ("hosts files resolve", "files dns"),
            ("hosts: resolve [!UNAVAIL=return", "dns"),
            ("hosts: files", "files"),
            ("hosts:", ""),
        ] {
            assert_eq!(hosts(host), format!("hosts: {kept}"), "{host}");
        }
    }

    #[test]
    fn other_lines_are_the_hosts() {
        for line in [
            "passwd: files systemd",
            "# hosts: resolve",
            "networks: files",
            "hostsfile: resolve",
            "",
        ] {
            assert_eq!(hosts(&format!("{line}\nhosts: dns")), line);
        }
        assert_eq!(
            nsswitch_conf(None),
            "# written by netnsd\nhosts: files dns\n"
        );
    }
}
