//! Replays one seed.
use maitred_sim::*;
fn main() {
    let a: Vec<u64> = std::env::args().skip(1).map(|a| a.parse().unwrap()).collect();
    for seed in a[1]..a[2] {
        let stage = if a[0] == 0 { Stage::Rules } else { Stage::House(a[0] as u8) };
        let s = Scenario {
            seed,
            stage,
            bug: None,
            keep: if a.len() > 3 { Keep::Print } else { Keep::Last },
        };
        let (log, r) = run(&s);
        if let Err(v) = r {
            for l in log.last_lines() {
                println!("{}", l.chars().take(220).collect::<String>());
            }
            println!("seed {seed} {} at {:?}\n{}", v.rule, v.at, v.text);
            return;
        }
    }
}
