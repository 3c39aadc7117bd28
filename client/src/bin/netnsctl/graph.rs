//! `netnsctl graph`: the network as a drawing, or for other programs that draw.

use std::{collections::HashMap, io};

use clap::Args;
use netnsd_api::Graph;
use netnsd_client::draw_graph;
use terminal_size::{Width, terminal_size_of};

use crate::{
    cli::Context,
    error::CliError,
    output::{Format, print_line, print_text, write_raw},
    topology::DocumentFile,
    yaml::to_yaml,
};

/// The network to draw, and how.
#[derive(Debug, Args)]
pub struct GraphArgs {
    /// Draw this document, YAML or JSON, without asking netnsd; - is the standard input
    #[arg(short, long, value_name = "FILE|-")]
    file: Option<String>,
    /// Print a Mermaid flowchart, for Markdown
    #[arg(long, conflicts_with = "dot")]
    mermaid: bool,
    /// Print the language of Graphviz, for dot(1)
    #[arg(long)]
    dot: bool,
}

/// Prints the network: everything recorded, and everything in the kernel.
pub async fn show_graph(context: &Context, args: &GraphArgs) -> Result<(), CliError> {
    let body = match &args.file {
        Some(file) => {
            let graph = Graph::new(&DocumentFile(file).read_topology()?, &HashMap::new(), &[]);
            serde_json::to_vec(&graph)?.into()
        }
        None => context.api.get("/v1/graph").await?,
    };
    let graph: Graph = serde_json::from_slice(&body)?;
    if args.mermaid {
        return print_text(graph.to_mermaid());
    }
    if args.dot {
        return print_text(graph.to_dot());
    }
    match context.format {
        Format::Json => print_line(&body),
        Format::Yaml => print_text(to_yaml(&body)?),
        Format::Name => {
            let ids = graph.nodes.iter().map(|node| format!("{}\n", node.id));
            print_text(ids.collect::<String>())
        }
        Format::Table => print_drawing(context, &graph),
    }
}

fn print_drawing(context: &Context, graph: &Graph) -> Result<(), CliError> {
    let width = terminal_size_of(io::stdout()).map(|(Width(columns), _)| usize::from(columns));
    write_raw(draw_graph(graph, width, context.use_color))?;
    if graph.nodes.iter().any(|node| node.managed) {
        return Ok(());
    }
    print_line("nothing recorded")
}
