//! A graph drawn with characters, for terminals.

use std::collections::{HashMap, HashSet};

use netnsd_api::{EdgeKind, Graph, GraphNode, NodeKind, State, Style};

/// Colors (ECMA-48, select graphic rendition).
const RED: u8 = 31;
const YELLOW: u8 = 33;
const GREY: u8 = 90;
const BOLD: u8 = 1;

/// Draws the host and each namespace as a tree with a line for each device: ports below their
/// bridge, beside each end of a pair the other one. A namespace with nothing but one end is drawn
/// beside the other end only. Lines longer than `width` show fewer addresses, then are cut.
pub fn draw_graph(graph: &Graph, width: Option<usize>, use_color: bool) -> String {
    let network = Network::new(graph);
    let width = width.unwrap_or(usize::MAX);
    let mut lines = network.draw(usize::MAX);
    if lines.iter().any(|line| line.width() > width) {
        lines = network.draw(1);
    }
    let status_at = lines.iter().map(Line::body_width).max().unwrap_or_default();
    let mut text = String::new();
    for line in lines {
        text += &line.print(status_at, width, use_color);
        text.push('\n');
    }
    text
}

/// Text in a color.
#[derive(Debug, Clone, Default)]
struct Span {
    text: String,
    color: Option<u8>,
}

impl Span {
    fn new(text: impl Into<String>, color: Option<u8>) -> Self {
        // Names may come from others, and terminals obey control sequences.
        let text: String = text.into();
        let mut printable = String::with_capacity(text.len());
        for c in text.chars() {
            if c.is_control() {
                printable.extend(c.escape_unicode());
            } else {
                printable.push(c);
            }
        }
        Self {
            text: printable,
            color,
        }
    }

    fn width(&self) -> usize {
        self.text.chars().count()
    }

    fn print(&self, use_color: bool) -> String {
        match self.color.filter(|_| use_color && !self.text.is_empty()) {
            Some(color) => format!("\u{1b}[{color}m{}\u{1b}[0m", self.text),
            None => self.text.clone(),
        }
    }
}

/// One line: spans from the left, and a status in a column of its own.
#[derive(Debug, Default)]
struct Line {
    spans: Vec<Span>,
    status: Span,
}

impl Line {
    fn body_width(&self) -> usize {
        self.spans.iter().map(Span::width).sum()
    }

    /// Returns the columns that the status takes, with two before it.
    fn status_width(&self) -> usize {
        match self.status.width() {
            0 => 0,
            width => width + 2,
        }
    }

    fn width(&self) -> usize {
        self.body_width() + self.status_width()
    }

    fn print(mut self, status_at: usize, width: usize, use_color: bool) -> String {
        let room = width.saturating_sub(self.status_width());
        if self.body_width() > room {
            self.cut(room);
        }
        let mut text: String = self
            .spans
            .iter()
            .map(|span| span.print(use_color))
            .collect();
        if !self.status.text.is_empty() {
            let fill = status_at.min(room).saturating_sub(self.body_width());
            text += &format!("{:fill$}  {}", "", self.status.print(use_color));
        }
        text
    }

    /// Cuts the spans after this number of characters.
    fn cut(&mut self, room: usize) {
        let mut left = room.saturating_sub(1);
        for span in &mut self.spans {
            span.text = span.text.chars().take(left).collect();
            left -= span.width();
        }
        self.spans.push(Span::new("…", None));
    }
}

/// A graph with its edges by device.
struct Network<'a> {
    places: Vec<(&'a GraphNode, Vec<&'a GraphNode>)>,
    by_id: HashMap<&'a str, &'a GraphNode>,
    /// Other ends of pairs.
    peers: HashMap<&'a str, &'a GraphNode>,
    /// Devices below others.
    lowers: HashMap<&'a str, &'a GraphNode>,
    /// Ports of bridges.
    ports: HashMap<&'a str, Vec<&'a GraphNode>>,
    /// Ids of all ports.
    is_port: HashSet<&'a str>,
    /// Ids of devices that are drawn beside their peer only.
    folded: HashSet<&'a str>,
}

impl<'a> Network<'a> {
    fn new(graph: &'a Graph) -> Self {
        let by_id: HashMap<&str, &GraphNode> = graph
            .nodes
            .iter()
            .map(|node| (node.id.as_str(), node))
            .collect();
        let mut network = Self {
            places: graph.by_namespace(),
            by_id,
            peers: HashMap::new(),
            lowers: HashMap::new(),
            ports: HashMap::new(),
            is_port: HashSet::new(),
            folded: HashSet::new(),
        };
        for edge in &graph.edges {
            let (Some(a), Some(b)) = (
                network.by_id.get(edge.a.as_str()).copied(),
                network.by_id.get(edge.b.as_str()).copied(),
            ) else {
                continue;
            };
            match edge.kind {
                EdgeKind::Pair => {
                    network.peers.insert(&a.id, b);
                    network.peers.insert(&b.id, a);
                }
                EdgeKind::Port => {
                    network.ports.entry(&b.id).or_default().push(a);
                    network.is_port.insert(&a.id);
                }
                EdgeKind::Lower => {
                    network.lowers.insert(&a.id, b);
                }
            }
        }
        network.fold_leaves();
        network
    }

    /// Folds each namespace with nothing but one end into the line of the other end, unless that
    /// is folded.
    fn fold_leaves(&mut self) {
        // From the last: of two that are joined, the first is drawn.
        for (place, devices) in self.places.iter().rev() {
            let [device] = devices[..] else {
                continue;
            };
            if place.kind != NodeKind::Namespace || self.is_port.contains(device.id.as_str()) {
                continue;
            }
            if let Some(peer) = self.peers.get(device.id.as_str())
                && !self.folded.contains(peer.id.as_str())
            {
                self.folded.insert(&device.id);
            }
        }
    }

    /// Returns the lines with at most this number of addresses for each device.
    fn draw(&self, addresses: usize) -> Vec<Line> {
        let mut lines = Vec::new();
        for (place, devices) in &self.places {
            if devices
                .iter()
                .any(|device| self.folded.contains(device.id.as_str()))
            {
                continue;
            }
            lines.push(place_line(place, devices.is_empty(), addresses));
            let tops: Vec<&GraphNode> = devices
                .iter()
                .copied()
                .filter(|device| !self.is_port.contains(device.id.as_str()))
                .collect();
            let mut branches = Vec::new();
            self.collect_branches(&tops, "", &mut branches);
            lines.extend(self.device_lines(&branches, addresses));
        }
        lines
    }

    /// Collects devices and, below each, its ports; with the prefix that draws the tree.
    fn collect_branches(
        &self,
        devices: &[&'a GraphNode],
        prefix: &str,
        branches: &mut Vec<(String, &'a GraphNode)>,
    ) {
        for (i, device) in devices.iter().enumerate() {
            let (branch, below) = if i + 1 < devices.len() {
                ("├─ ", "│  ")
            } else {
                ("└─ ", "   ")
            };
            branches.push((format!("{prefix}{branch}"), device));
            if let Some(ports) = self.ports.get(device.id.as_str()) {
                self.collect_branches(ports, &format!("{prefix}{below}"), branches);
            }
        }
    }

    /// Returns the lines of the devices of one namespace, with the peers in one column.
    fn device_lines(&self, branches: &[(String, &'a GraphNode)], addresses: usize) -> Vec<Line> {
        let mut lines: Vec<Line> = branches
            .iter()
            .map(|(prefix, device)| Line {
                spans: vec![
                    Span::new(prefix.as_str(), None),
                    self.own_span(device, addresses),
                ],
                status: self.status(device),
            })
            .collect();
        let with_peer =
            |line: &(&Line, &(String, &GraphNode))| self.peers.contains_key(line.1.1.id.as_str());
        let column = lines.iter().zip(branches).filter(with_peer);
        let column = column.map(|(line, _)| line.body_width()).max();
        for (line, (_, device)) in lines.iter_mut().zip(branches) {
            let Some(peer) = self.peers.get(device.id.as_str()) else {
                continue;
            };
            let fill = column.unwrap_or_default().saturating_sub(line.body_width());
            line.spans
                .push(Span::new(format!(" ──{} ", "─".repeat(fill)), None));
            line.spans.push(self.peer_span(device, peer, addresses));
        }
        lines
    }

    /// Returns the name and the addresses of a device, with the device below it as ip(8) shows it.
    fn own_span(&self, device: &GraphNode, addresses: usize) -> Span {
        let mut text = device.name.clone();
        if let Some(lower) = self.lowers.get(device.id.as_str()) {
            text += &format!("@{}", relative_name(device, lower));
        }
        Span::new(text + &address_list(device, addresses), color(device))
    }

    fn peer_span(&self, device: &GraphNode, peer: &GraphNode, addresses: usize) -> Span {
        let name = relative_name(device, peer);
        Span::new(name + &address_list(peer, addresses), color(peer))
    }

    /// Returns the state of a line: that of its resource unless it is in sync, else that of the
    /// kernel's devices.
    fn status(&self, device: &GraphNode) -> Span {
        let managed = if device.managed { "" } else { "unmanaged" };
        if let Some(state) = device.state.filter(|state| *state != State::InSync) {
            return Span::new(state.as_str(), color(device));
        }
        let peer = self.peers.get(device.id.as_str()).copied();
        // The end that is set down says more than the one without carrier because of it.
        let is_set_down = |node: &&GraphNode| node.operstate.as_deref() == Some("down");
        let shown = peer.filter(is_set_down).unwrap_or(device);
        let operstate = match shown.operstate.as_deref() {
            Some(state) if shown.is_down() => state.to_uppercase(),
            Some(state) => state.to_owned(),
            None => String::new(),
        };
        let words: Vec<&str> = [operstate.as_str(), managed]
            .into_iter()
            .filter(|word| !word.is_empty())
            .collect();
        Span::new(
            words.join(" "),
            color(if device.managed { shown } else { device }),
        )
    }
}

/// Returns the heading of a tree.
fn place_line(place: &GraphNode, is_empty: bool, addresses: usize) -> Line {
    let remark = match place.state {
        Some(State::InSync) | None if place.style() == Style::Unmanaged => " (unmanaged)".into(),
        Some(State::InSync) | None if is_empty => " (empty)".into(),
        Some(State::InSync) | None => String::new(),
        Some(state) => format!(" ({state})"),
    };
    let spans = [
        (place.name.clone(), color(place).or(Some(BOLD))),
        (address_list(place, addresses) + &remark, color(place)),
    ];
    Line {
        spans: spans.map(|(text, color)| Span::new(text, color)).into(),
        status: Span::default(),
    }
}

/// Returns the name of a device as seen from another: with its namespace if that is another one.
fn relative_name(from: &GraphNode, device: &GraphNode) -> String {
    if from.namespace == device.namespace {
        return device.name.clone();
    }
    let namespace = device
        .namespace
        .as_deref()
        .unwrap_or(NodeKind::Host.as_str());
    format!("{namespace}:{}", device.name)
}

/// Returns the first addresses of a node, and the number of the others.
fn address_list(node: &GraphNode, most: usize) -> String {
    let all: Vec<&str> = node.shown_addresses().collect();
    let mut text = String::new();
    for address in all.iter().take(most) {
        text += &format!(" {address}");
    }
    match all.len().saturating_sub(most) {
        0 => text,
        more => format!("{text} +{more}"),
    }
}

fn color(node: &GraphNode) -> Option<u8> {
    match node.style() {
        Style::Settled => None,
        Style::Broken => Some(RED),
        Style::Unsettled => Some(YELLOW),
        Style::Unmanaged => Some(GREY),
    }
}

#[cfg(test)]
mod tests {
    use netnsd_api::Topology;
    use serde_json::json;

    use super::*;

    fn graph(document: serde_json::Value) -> Graph {
        let document: Topology = serde_json::from_value(document).unwrap();
        Graph::new(&document, &HashMap::new(), &[])
    }

    fn pair(name: &str, ends: [&str; 2]) -> serde_json::Value {
        let ends = ends.map(|namespace| {
            json!({"namespace": namespace, "interface": name,
                "addresses": ["10.0.0.1/24", "fd00::1/64"]})
        });
        json!({"name": name, "endpoints": ends})
    }

    #[test]
    fn leaf_is_drawn_beside_its_peer() {
        let drawing = draw_graph(
            &graph(json!({
                "namespaces": [{"name": "alone"}, {"name": "leaf"}, {"name": "x"}, {"name": "y"}],
                "veths": [pair("xy", ["x", "y"]), pair("yx", ["x", "y"]), pair("z", ["leaf", "x"])],
            })),
            None,
            false,
        );
        assert_eq!(
            drawing,
            "\
alone (empty)
x
├─ xy 10.0.0.1/24 fd00::1/64 ── y:xy 10.0.0.1/24 fd00::1/64
├─ yx 10.0.0.1/24 fd00::1/64 ── y:yx 10.0.0.1/24 fd00::1/64
└─ z 10.0.0.1/24 fd00::1/64 ─── leaf:z 10.0.0.1/24 fd00::1/64
y
├─ xy 10.0.0.1/24 fd00::1/64 ── x:xy 10.0.0.1/24 fd00::1/64
└─ yx 10.0.0.1/24 fd00::1/64 ── x:yx 10.0.0.1/24 fd00::1/64
"
        );
    }

    #[test]
    fn drawing_fits_its_width() {
        let graph = graph(json!({"veths": [pair("alice-bob", ["alice", "bob"])]}));
        let full = draw_graph(&graph, Some(200), false);
        assert_eq!(full, draw_graph(&graph, None, false));
        let first = draw_graph(&graph, Some(60), false);
        let line = "└─ alice-bob 10.0.0.1/24 +1 ── bob:alice-bob 10.0.0.1/24 +1";
        assert_eq!(first, format!("alice\n{line}\n"));
        for width in 10..60 {
            let cut = draw_graph(&graph, Some(width), false);
            assert!(
                cut.lines().all(|line| line.chars().count() <= width),
                "{cut}"
            );
        }
    }

    #[test]
    fn states_are_colored_and_control_characters_escaped() {
        let mut graph = graph(json!({"namespaces": [{"name": "a"}]}));
        let draw = |graph: &Graph| draw_graph(graph, None, true);
        assert!(draw(&graph).starts_with("\u{1b}[1ma\u{1b}[0m"));
        graph.nodes[0].state = Some(State::Pending);
        assert!(draw(&graph).contains("\u{1b}[33m (pending)\u{1b}[0m"));
        graph.nodes[0].state = Some(State::Failed);
        assert!(draw(&graph).contains("\u{1b}[31m (failed)\u{1b}[0m"));
        graph.nodes[0].state = None;
        graph.nodes[0].managed = false;
        graph.nodes[0].name = "a\u{1b}[2J".into();
        let drawing = draw(&graph);
        assert!(
            drawing.starts_with("\u{1b}[90ma\\u{1b}[2J\u{1b}[0m"),
            "{drawing:?}"
        );
        assert!(drawing.contains("unmanaged"));
    }
}
