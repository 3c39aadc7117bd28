//! Suggestions for words that netnsctl does not know: the nearest known one, or its command for a
//! word of another tool.

/// Words of docker, kubectl, terraform and iproute2, and the commands that do the same.
const FOREIGN_COMMANDS: &[(&[&str], &str)] = &[
    (&["ls", "list", "ps", "get", "lsns"], "netnsctl netns list"),
    (
        &["show", "inspect", "describe", "info"],
        "netnsctl netns show NAME",
    ),
    (&["create", "new", "run"], "netnsctl netns add NAME"),
    (
        &["rm", "delete", "remove", "del"],
        "netnsctl netns delete NAME",
    ),
    (
        &["exec", "nsenter", "enter"],
        "netnsctl netns exec NAME COMMAND",
    ),
    (&["shell", "sh", "bash"], "netnsctl netns shell NAME"),
    (&["ping"], "netnsctl netns ping NAME ADDRESS"),
    (&["log", "logs", "history"], "netnsctl events"),
    (&["watch", "monitor"], "netnsctl events -f"),
    (
        &["up", "import", "load", "deploy"],
        "netnsctl apply -f FILE",
    ),
    (&["down", "destroy"], "netnsctl apply --prune -f FILE"),
    (
        &["validate", "check", "lint", "preview"],
        "netnsctl plan -f FILE",
    ),
    (&["save", "dump"], "netnsctl export"),
    (&["sync", "refresh", "repair"], "netnsctl reconcile"),
    (&["ifconfig"], "netnsctl addr"),
    (&["map", "tree", "draw", "topology"], "netnsctl graph"),
    (&["label", "patch", "update"], "netnsctl netns set NAME"),
    (&["whoami", "config", "context"], "netnsctl status"),
];

/// The same for words after `netns`, `bridge` and `veth`; KIND stands for that word.
const FOREIGN_KIND_COMMANDS: &[(&[&str], &str)] = &[
    (
        &["inspect", "describe", "get", "info"],
        "netnsctl KIND show NAME",
    ),
    (&["destroy"], "netnsctl KIND delete NAME"),
    (
        &["update", "change", "modify", "label", "patch"],
        "netnsctl KIND set NAME",
    ),
];

/// The same for words after one kind.
const FOREIGN_COMMANDS_OF_KINDS: &[(&str, &[&str], &str)] = &[
    (
        "veth",
        &["move", "mv", "attach"],
        "netnsctl veth set NAME/0 --namespace NAMESPACE",
    ),
    ("veth", &["up", "enable"], "netnsctl veth set NAME/0 --up"),
    (
        "veth",
        &["down", "disable"],
        "netnsctl veth set NAME/0 --down",
    ),
    (
        "veth",
        &["rename", "mv"],
        "netnsctl veth set NAME/0 --interface NEW",
    ),
    ("bridge", &["up", "enable"], "netnsctl bridge set NAME --up"),
    (
        "bridge",
        &["down", "disable"],
        "netnsctl bridge set NAME --down",
    ),
    (
        "netns",
        &["rename", "mv"],
        "netnsctl netns attach NEW PID, for a process in it: a namespace keeps its name",
    ),
];

/// Options of other tools, and the options that do the same.
const FOREIGN_OPTIONS: &[(&[&str], &str)] = &[
    (&["--json", "-j"], "--output json"),
    (&["--workdir", "-w"], "--cwd DIR"),
    (&["--yaml"], "--output yaml"),
    (&["--format"], "--output FORMAT"),
    (&["--netns", "--ns"], "--namespace NAME"),
    (&["--master"], "--bridge NAME"),
    (&["--ip", "--cidr"], "--address CIDR"),
    (&["--name", "--ifname"], "--interface NAME"),
    (&["--socket", "--host"], "--url URL"),
    (&["--selector", "-l"], "--label LABEL"),
    (&["--filename"], "--file FILE"),
    (&["--limit", "-n", "--lines"], "--tail N"),
    (&["--force"], "--cascade"),
];

fn look_up(table: &[(&[&str], &'static str)], word: &str) -> Option<&'static str> {
    let (_, own) = table.iter().find(|(words, _)| words.contains(&word))?;
    Some(own)
}

/// Returns the command that does the same as a word of another tool; `kind` is the word of
/// netnsctl that precedes it, if it is not the first.
pub fn find_own_command(kind: Option<&str>, word: &str) -> Option<String> {
    match kind {
        None => look_up(FOREIGN_COMMANDS, word).map(str::to_owned),
        Some(kind) => {
            let of_kind = FOREIGN_COMMANDS_OF_KINDS
                .iter()
                .find(|(of, words, _)| *of == kind && words.contains(&word));
            match of_kind {
                Some((_, _, command)) => Some((*command).to_owned()),
                None => look_up(FOREIGN_KIND_COMMANDS, word)
                    .map(|command| command.replace("KIND", kind)),
            }
        }
    }
}

/// Returns the option that does the same as an option of another tool.
pub fn find_own_option(word: &str) -> Option<&'static str> {
    look_up(FOREIGN_OPTIONS, word)
}

/// Returns the known word that is nearest to a mistyped one, if one is near: at most one edit for
/// each three letters. Abbreviations of one letter are near to nothing.
pub fn find_nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (word.chars().count() / 3).max(1);
    known
        .into_iter()
        .filter(|known| known.len() > 1)
        .map(|known| (strsim::damerau_levenshtein(word, known), known))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| known)
}

/// Returns the question after the nearest known word; empty if none is near.
pub fn did_you_mean<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    find_nearest(word, known).map_or(String::new(), |near| format!(", did you mean {near}?"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::build_command;

    #[test]
    fn nearest_word_is_the_one_that_was_meant() {
        let known = ["l", "list", "ls", "netns", "n", "events", "token", "status"];
        for (typed, meant) in [
            ("lst", Some("list")),
            ("ntens", Some("netns")),
            ("staus", Some("status")),
            ("evnts", Some("events")),
            ("validate", None),
            ("x", None),
        ] {
            assert_eq!(find_nearest(typed, known), meant, "{typed}");
        }
    }

    #[test]
    fn commands_for_words_of_other_tools_exist() {
        let root = build_command();
        let kinds = ["netns", "bridge", "veth"];
        let below = FOREIGN_KIND_COMMANDS
            .iter()
            .flat_map(|(words, _)| kinds.map(|kind| (*words, Some(kind))));
        let all = FOREIGN_COMMANDS.iter().map(|(words, _)| (*words, None));
        for (words, kind) in all.chain(below) {
            let own = find_own_command(kind, words[0]).unwrap();
            let mut command = &root;
            for word in own.split(' ').skip(1).take_while(|word| {
                word.chars().all(|c| c.is_ascii_lowercase()) && command.has_subcommands()
            }) {
                command = command
                    .find_subcommand(word)
                    .unwrap_or_else(|| panic!("{own}: {word}"));
            }
            assert!(!command.has_subcommands(), "{own}");
        }
    }
}
