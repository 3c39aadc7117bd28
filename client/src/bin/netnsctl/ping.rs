//! `netnsctl netns ping`.

use clap::Args;
use http::Method;
use netnsd_api::{Namespace, PingResult};

use crate::{
    api::RequestBody,
    body::BodyBuilder,
    cli::Context,
    error::CliError,
    output::{print_json_or_yaml, print_text},
    resource::ResourcePath,
};

/// `netnsctl netns ping …`
#[derive(Debug, Args)]
pub struct PingArgs {
    /// The namespace
    name: String,
    /// Target address; a link-local one with its interface: fe80::1%eth0
    address: String,
    /// Output interface [default: by the routes]
    #[arg(short = 'I', long, value_name = "INTERFACE")]
    interface: Option<String>,
    /// Number of requests, up to 1000; a ping takes at most 10 minutes
    #[arg(short, long, default_value_t = 1)]
    count: u32,
    /// Seconds to wait for each reply [default: 1]
    #[arg(short = 'W', long, value_name = "SECONDS")]
    timeout: Option<f64>,
    /// Seconds between two requests [default: 0.2]
    #[arg(short, long, value_name = "SECONDS")]
    interval: Option<f64>,
    /// Bytes of payload [default: 56]
    #[arg(short, long, value_name = "BYTES")]
    size: Option<u32>,
}

/// Pings an address; succeeds if there was a reply.
pub async fn ping_address(context: &Context, args: &PingArgs) -> Result<(), CliError> {
    let mut body = BodyBuilder::default();
    body.set("address", Some(args.address.clone()));
    body.set("interface", args.interface.clone());
    body.set("count", Some(args.count));
    body.set("timeout_ms", args.timeout.map(to_milliseconds));
    body.set("interval_ms", args.interval.map(to_milliseconds));
    body.set("size", args.size);
    let path = ResourcePath::resource::<Namespace>(&args.name).child("ping");
    let answer = context
        .api
        .send(
            Method::POST,
            &path.to_string(),
            Some(&RequestBody::Json(&body.build())),
        )
        .await?;
    let result: PingResult = serde_json::from_slice(&answer)?;
    if !print_json_or_yaml(context.format, &answer)? {
        print_text(format_result(&args.address, &result))?;
    }
    if result.received > 0 {
        Ok(())
    } else {
        Err(CliError::Exit(1))
    }
}

fn to_milliseconds(seconds: f64) -> u64 {
    (seconds * 1000.0).round() as u64
}

/// Returns the result in the format of ping(8).
fn format_result(address: &str, result: &PingResult) -> String {
    let mut text = String::new();
    for reply in &result.replies {
        let seq = reply.seq;
        text += &match (&reply.error, reply.rtt_ms) {
            (None, Some(rtt)) => {
                let from = reply.from.as_deref().unwrap_or(address);
                let ttl = reply.ttl.map_or(String::new(), |ttl| format!(" ttl={ttl}"));
                format!("from {from}: icmp_seq={seq}{ttl} time={rtt:.3} ms\n")
            }
            (error, _) => format!(
                "icmp_seq={seq} {}\n",
                error.as_deref().unwrap_or("no reply")
            ),
        };
    }
    let loss = (result.loss * 100.0).round();
    text += &format!(
        "{} transmitted, {} received, {loss}% loss",
        result.transmitted, result.received
    );
    if let Some(rtt) = result.rtt_ms {
        text += &format!(
            ", rtt min/avg/max {:.3}/{:.3}/{:.3} ms",
            rtt.min, rtt.avg, rtt.max
        );
    }
    text + "\n"
}
