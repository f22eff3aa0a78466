//! Tests with many connections at a time: no stall is reported for a request that did not block.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use actix_web::web::{self, ServiceConfig};
use pollwatch::Stall;
use test_support::*;

use crate::fixture::Fixture;

const CONNECTIONS: usize = 16;
/// The number of requests on each connection.
const REQUESTS: usize = 60;

fn routes(config: &mut ServiceConfig) {
    let fast = async |id: web::Path<u32>| {
        yield_once().await;
        format!("item {id}")
    };
    let slow = async |id: web::Path<u32>| {
        yield_once().await;
        block(THRESHOLD * 2);
        format!("item {id}")
    };
    config.route("/fast/{id}", web::get().to(fast)).route("/block/{id}", web::get().to(slow));
}

/// Sends requests on one connection, one after the other.
fn drive(addr: SocketAddr, requests: usize, path: impl Fn(usize) -> String) {
    let mut stream = connect(addr);
    let mut chunk = [0; 4096];
    for n in 0..requests {
        write!(stream, "GET {} HTTP/1.1\r\nhost: x\r\n\r\n", path(n)).unwrap();
        let (mut text, end) = (String::new(), format!("\r\n\r\nitem {n}"));
        while !text.ends_with(&end) {
            let read = stream.read(&mut chunk).unwrap();
            assert!(read > 0, "closed after {text:?}");
            text.push_str(std::str::from_utf8(&chunk[..read]).unwrap());
        }
    }
}

/// Drives the server from all connections at a time.
fn load(addr: SocketAddr, path: impl Fn(usize, usize) -> String + Copy + Send + 'static) {
    let drive = |c| std::thread::spawn(move || drive(addr, REQUESTS, |n| path(c, n)));
    (0..CONNECTIONS).map(drive).collect::<Vec<_>>().into_iter().for_each(|client| client.join().unwrap());
}

/// Returns whether the machine may have made the poll long: the thread had no CPU for a part of it,
/// or the hypervisor withheld one.
fn is_slowed_down(stall: &Stall) -> bool {
    let had_cpu = stall.on_cpu.is_some_and(|on_cpu| on_cpu >= stall.elapsed);
    !had_cpu || stall.steal.is_none_or(|steal| steal > Duration::ZERO)
}

#[test]
fn nothing_is_reported_under_load() {
    undisturbed(|| {
        let fixture = Fixture::start();
        let server = fixture.serve(2, routes);
        load(server.addr, |_, n| format!("/fast/{n}"));
        fixture.wait_requests("/fast/{id}", &[("GET", "2xx", (CONNECTIONS * REQUESTS) as u64)]);
        match fixture.stalls().first() {
            None => Ok(()),
            Some(stall) if is_slowed_down(stall) => Err(stall.to_string()),
            Some(stall) => panic!("nothing blocks here: {stall}"),
        }
    });
}

#[test]
fn each_stall_has_the_route_that_blocks() {
    let fixture = Fixture::start();
    let server = fixture.serve(2, routes);
    // One request in twenty blocks.
    load(server.addr, |c, n| if (c + n) % 20 == 0 { format!("/block/{n}") } else { format!("/fast/{n}") });
    let (all, blocked) = (CONNECTIONS * REQUESTS, CONNECTIONS * REQUESTS / 20);
    fixture.wait_requests("/block/{id}", &[("GET", "2xx", blocked as u64)]);
    fixture.wait_requests("/fast/{id}", &[("GET", "2xx", (all - blocked) as u64)]);
    let stalls = fixture.stalls();
    let asleep: Vec<_> = stalls.iter().filter(|stall| stall.reason.contains("a sleep")).collect();
    assert!(!asleep.is_empty(), "{stalls:#?}");
    for stall in asleep {
        assert_eq!(stall.route.as_deref(), Some("/block/{id}"), "{stall}");
    }
    let counted = fixture.metrics().get("pollwatch_route_stalls_total", &[("route", "/block/{id}")]);
    assert!(counted <= blocked as f64, "{counted} of {blocked}");
}
