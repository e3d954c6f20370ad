//! A durable writer is killed at random moments: what it acknowledged is there.

use std::io::{Read, Write};

use crate::common::{Home, Random, all_there, lines_of, scale};

#[test]
fn no_acknowledged_block_is_lost_when_the_writer_is_killed() {
    let rounds = scale(10, 200);
    let (mut home, _) = Home::with_account(&[]);
    let (mut acknowledged, mut checked) = (Vec::new(), 0);
    for seed in 0..rounds {
        // Several kills a home, but each round reads all of it: not too many.
        if seed % 10 == 0 {
            (home, _) = Home::with_account(&[]);
            acknowledged.clear();
        }
        let mut random = Random::new(seed);
        let size = 1 + random.below(200_000);
        let name = format!("round-{seed}");
        let arguments = ["ingest", "a", "-", "--name", &name, "--block-size", &size.to_string()];
        let mut writer = home.spawn(home.command().args(arguments));
        let mut stdin = writer.stdin.take().unwrap();
        let input = random.bytes(2 << 20);
        let feeder = std::thread::spawn(move || while stdin.write_all(&input).is_ok() {});

        // The moment: after so many bytes of its lines, and a little later.
        let mut stdout = writer.stdout.take().unwrap();
        let mut printed = vec![0; 1 + random.below(4000) as usize];
        stdout.read_exact(&mut printed).unwrap();
        for _ in 0..random.below(3_000_000) {
            std::hint::spin_loop();
        }
        writer.kill().unwrap();
        writer.wait().unwrap();
        stdout.read_to_end(&mut printed).unwrap();
        feeder.join().unwrap();

        let lines = lines_of("Stored", &printed);
        checked += lines.len();
        acknowledged.extend(lines);
        let there = all_there(&home, &acknowledged, &format!("seed {seed}, blocks of {size} bytes"));
        assert!(there >= acknowledged.len(), "seed {seed}");
    }
    println!("{rounds} kills, {checked} blocks acknowledged: 0 lost or wrong");
}
