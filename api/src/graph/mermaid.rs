//! A graph as a Mermaid flowchart (`text/vnd.mermaid`).

use std::{collections::HashMap, fmt::Write};

use super::{EdgeKind, Graph, GraphNode, NodeKind, Style};

impl Graph {
    /// Returns the graph as a Mermaid flowchart, with a subgraph for each namespace.
    pub fn to_mermaid(&self) -> String {
        let numbers: HashMap<&str, usize> = self
            .nodes
            .iter()
            .enumerate()
            .map(|(number, node)| (node.id.as_str(), number))
            .collect();
        let number = |id: &str| numbers.get(id).copied().unwrap_or_default();
        let mut text = String::from("flowchart LR\n");
        for (namespace, devices) in self.by_namespace() {
            let _ = writeln!(
                text,
                "  subgraph {}",
                labelled(number(&namespace.id), namespace)
            );
            for device in devices {
                let _ = writeln!(text, "    {}", labelled(number(&device.id), device));
            }
            text += "  end\n";
        }
        for edge in &self.edges {
            let line = match edge.kind {
                EdgeKind::Pair => "===",
                EdgeKind::Port => "---",
                EdgeKind::Lower => "-.-",
            };
            let (a, b) = (number(&edge.a), number(&edge.b));
            let _ = writeln!(text, "  n{a} {line} n{b}");
        }
        for (class, style, look) in [
            ("broken", Style::Broken, "stroke:#c00,stroke-width:2px"),
            (
                "unsettled",
                Style::Unsettled,
                "stroke:#b80,stroke-width:2px",
            ),
            ("unmanaged", Style::Unmanaged, "stroke-dasharray:4 4"),
        ] {
            let members: Vec<String> = self
                .nodes
                .iter()
                .filter(|node| node.style() == style)
                .map(|node| format!("n{}", number(&node.id)))
                .collect();
            if !members.is_empty() {
                let _ = writeln!(text, "  classDef {class} {look}");
                let _ = writeln!(text, "  class {} {class}", members.join(","));
            }
        }
        text
    }
}

/// Returns the declaration of a node or a subgraph.
fn labelled(number: usize, node: &GraphNode) -> String {
    let label: Vec<String> = node.label().map(escape).collect();
    let label = label.join("<br>");
    match node.kind {
        NodeKind::Bridge => format!("n{number}[[\"{label}\"]]"),
        NodeKind::Host | NodeKind::Namespace | NodeKind::Interface => {
            format!("n{number}[\"{label}\"]")
        }
    }
}

/// Writes all characters that Mermaid, Markdown or HTML could read as anything but themselves as
/// entity codes.
fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars() {
        match c {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '-' | '.' | ':' | '/' | ' ' | '@' => {
                escaped.push(c)
            }
            _ => escaped += &format!("#{};", u32::from(c)),
        }
    }
    escaped
}
