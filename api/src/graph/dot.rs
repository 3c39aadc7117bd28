//! A graph in the language of Graphviz (`text/vnd.graphviz`).

use std::fmt::Write;

use super::{EdgeKind, Graph, GraphNode, NodeKind, Style};

impl Graph {
    /// Returns the graph in the language of dot(1), with a cluster for each namespace.
    pub fn to_dot(&self) -> String {
        let mut text = String::from(
            "graph netnsd {\n  graph [rankdir=LR, fontname=sans, style=rounded]\n  \
             node [shape=box, fontname=sans]\n",
        );
        for (namespace, devices) in self.by_namespace() {
            let id = format!("cluster {}", namespace.id);
            let _ = writeln!(text, "  subgraph {} {{", quote(&id));
            let _ = writeln!(
                text,
                "    label={}{}",
                label(namespace),
                colour(namespace, "; color")
            );
            // A cluster without a node is not drawn.
            let _ = writeln!(
                text,
                "    {} [style=invis, shape=point]",
                quote(&namespace.id)
            );
            for device in devices {
                let shape = match device.kind {
                    NodeKind::Bridge => ", shape=box3d",
                    NodeKind::Host | NodeKind::Namespace | NodeKind::Interface => "",
                };
                let (id, label) = (quote(&device.id), label(device));
                let colour = colour(device, ", color");
                let _ = writeln!(text, "    {id} [label={label}{shape}{colour}]");
            }
            text += "  }\n";
        }
        for edge in &self.edges {
            let line = match edge.kind {
                EdgeKind::Pair => " [style=bold]",
                EdgeKind::Port => "",
                EdgeKind::Lower => " [style=dashed]",
            };
            let _ = writeln!(text, "  {} -- {}{line}", quote(&edge.a), quote(&edge.b));
        }
        text + "}\n"
    }
}

/// Returns the attribute for the colour of a node's frame; empty for the default.
fn colour(node: &GraphNode, attribute: &str) -> String {
    match node.style() {
        Style::Settled => String::new(),
        Style::Broken => format!("{attribute}=red"),
        Style::Unsettled => format!("{attribute}=orange"),
        Style::Unmanaged => format!("{attribute}=gray"),
    }
}

fn label(node: &GraphNode) -> String {
    let lines: Vec<String> = node.label().map(escape).collect();
    format!("\"{}\"", lines.join("\\n"))
}

fn quote(text: &str) -> String {
    format!("\"{}\"", escape(text))
}

/// Escapes a text within quotes; backslashes begin escape sequences in labels.
fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"")
}
