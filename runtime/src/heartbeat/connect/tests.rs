//! Jobs that find each other among strangers, who neither end, delay nor join them. `NEOXC_STRANGERS=N` (make strangers) has
//! N jobs of each kind.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

fn rounds() -> usize {
    std::env::var("NEOXC_STRANGERS").map_or(1, |n| n.parse().unwrap())
}

/// What a stranger does with the ports of a job, again and again, until the end.
type Stranger = fn(&[Address], &AtomicBool);

fn each(all: &[Address], over: &AtomicBool, mut act: impl FnMut(TcpStream, usize)) {
    while !over.load(Ordering::Relaxed) {
        for (rank, a) in all.iter().enumerate() {
            if let Ok(stream) = TcpStream::connect_timeout(&a.at[0], Duration::from_millis(200)) {
                act(stream, rank);
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn silent(all: &[Address], over: &AtomicBool) {
    let mut kept = vec![];
    each(all, over, |stream, _| {
        kept.push(stream);
        if kept.len() > 300 {
            kept.remove(0);
        }
    });
}

fn noisy(all: &[Address], over: &AtomicBool) {
    each(all, over, |mut stream, rank| {
        let _ = stream.write_all(&vec![rank as u8; 4096]);
    });
}

/// Knows the protocol and all addresses, and poses as every rank; whatever it is told it keeps.
fn posing(all: &[Address], over: &AtomicBool) {
    let secret = Secret::of(&[&[0; 32], b"guessed"]);
    let hosts: Vec<String> = all.iter().map(|a| a.host.clone()).collect();
    each(all, over, |mut stream, rank| {
        let other = (rank + 1) % hosts.len();
        let pair =
            Pair { caller: (other as u64, &hosts[other]), heard: (rank as u64, &hosts[rank]) };
        let _ = stream.write_all(&Caller::new(&secret, pair, [7; 16]).hello());
        let _ = stream.set_read_timeout(Some(Duration::from_millis(200)));
        let mut heard = vec![];
        let _ = stream.read_to_end(&mut heard);
        assert!(heard.is_empty(), "a stranger was told {heard:?}");
    });
}

/// Four ranks that meet while `strangers` do what they do; gives how long it took.
fn met(strangers: &[Stranger]) -> Duration {
    let here: Vec<IpAddr> = vec!["127.0.0.1".parse().unwrap()];
    let lobbies: Vec<Lobby> = (0..4).map(|_| Lobby::open("h".into(), &here).unwrap()).collect();
    let all: Vec<Address> = lobbies.iter().map(|l| l.address.clone()).collect();
    let over = AtomicBool::new(false);
    std::thread::scope(|s| {
        let all = &all;
        for stranger in strangers {
            s.spawn(|| stranger(all, &over));
        }
        if !strangers.is_empty() {
            std::thread::sleep(Duration::from_millis(50));
        }
        let start = Instant::now();
        let ranks: Vec<_> = lobbies
            .into_iter()
            .enumerate()
            .map(|(me, lobby)| {
                let me = me as u64;
                s.spawn(move || {
                    let peers: Vec<u64> = (0..4).filter(|r| *r != me).collect();
                    let mut found = lobby.meet(me, &peers, all, b"given").unwrap();
                    found.sort_by_key(|(r, _)| *r);
                    assert_eq!(found.iter().map(|(r, _)| *r).collect::<Vec<_>>(), peers);
                    // The other end is that rank's.
                    for (_, stream) in &mut found {
                        stream.write_all(&me.to_le_bytes()).unwrap();
                    }
                    for (rank, stream) in &mut found {
                        let mut said = [0; 8];
                        stream.read_exact(&mut said).unwrap();
                        assert_eq!(u64::from_le_bytes(said), *rank);
                    }
                })
            })
            .collect();
        let done: Vec<_> = ranks.into_iter().map(|r| r.join()).collect();
        let took = start.elapsed();
        over.store(true, Ordering::Relaxed);
        assert!(done.iter().all(Result::is_ok));
        took
    })
}

#[test]
fn strangers_neither_end_nor_delay_nor_join_a_job() {
    met(&[]);
    let kinds: [&[Stranger]; 4] =
        [&[silent], &[noisy], &[posing], &[silent, silent, noisy, posing, posing]];
    for kind in kinds {
        let took: Vec<Duration> = (0..rounds()).map(|_| met(kind)).collect();
        let longest = took.iter().max().copied().unwrap_or_default();
        eprintln!("{} jobs beside {} strangers: {longest:?} at most", took.len(), kind.len());
        assert!(longest < CALL * 2, "{longest:?}");
    }
}

#[test]
fn who_has_another_secret_of_the_launcher_s_is_not_of_the_job() {
    let here: Vec<IpAddr> = vec!["127.0.0.1".parse().unwrap()];
    let lobby = Lobby::open("h".into(), &here).unwrap();
    let other = Lobby::open("h".into(), &here).unwrap();
    let all = [lobby.address.clone(), other.address.clone()];
    let secret = Secret::of(&[&all[0].salt, b"another"]);
    let pair = Pair { caller: (1, "h"), heard: (0, "h") };
    std::thread::scope(|s| {
        let all = &all;
        let meeting = s.spawn(move || lobby.meet(0, &[1], all, b"given").map(|f| f.len()));
        assert!(dial(&secret, pair, &all[0].at[0]).is_err());
        // The right one is heard all the same.
        let right = Secret::of(&[&all[0].salt, b"given"]);
        let _kept = dial(&right, pair, &all[0].at[0]).unwrap();
        assert_eq!(meeting.join().unwrap().unwrap(), 1);
    });
}

#[test]
fn a_job_listens_on_the_addresses_that_it_uses() {
    let ip = |a: &str| -> IpAddr { a.parse().unwrap() };
    let all = [("lo", "127.0.0.1"), ("eth0", "10.0.0.7"), ("eth1", "192.168.3.4"), ("lo", "::1")];
    let all: Vec<(String, IpAddr)> = all.iter().map(|(n, a)| (n.to_string(), ip(a))).collect();
    let of = |include, alone| addresses(&all, include, alone);
    assert_eq!(of(None, false), [ip("10.0.0.7"), ip("192.168.3.4"), ip("127.0.0.1"), ip("::1")]);
    assert_eq!(of(None, true), [ip("127.0.0.1"), ip("::1")]);
    assert_eq!(of(Some("eth1"), false), [ip("192.168.3.4")]);
    assert_eq!(of(Some("10.0.0.0/24, eth1"), false), [ip("10.0.0.7"), ip("192.168.3.4")]);
    assert_eq!(of(Some("0.0.0.0/0"), false).len(), 3);
    assert!(of(Some("wlan0"), false).is_empty());
}
