//! Work for the CPU: the Mandelbrot set, in as many rows as take 20 ms on this machine.

use std::time::{Duration, Instant};

const WIDTH: u32 = 256;
const ITERATIONS: u32 = 1_000;
const WORK: Duration = Duration::from_millis(20);

/// A picture that takes [`WORK`] to draw on an idle CPU. The amount of work is fixed: with a time
/// limit instead, waiting for a CPU would count as drawing.
#[derive(Clone, Copy)]
pub(crate) struct Picture {
    rows: u32,
}

impl Picture {
    pub(crate) fn calibrated() -> Picture {
        let sample = Picture { rows: 32 };
        let time = || {
            let start = Instant::now();
            std::hint::black_box(sample.draw());
            start.elapsed()
        };
        // The fastest of several: other load only makes it slower.
        let best = (0..10).map(|_| time()).min().unwrap_or(WORK);
        Picture { rows: (f64::from(sample.rows) * WORK.as_secs_f64() / best.as_secs_f64()).ceil() as u32 }
    }

    /// Draws the picture as a PGM file.
    pub(crate) fn draw(self) -> Vec<u8> {
        let mut file = format!("P5 {WIDTH} {} 255\n", self.rows).into_bytes();
        for row in 0..self.rows {
            let y = f64::from(row) / f64::from(self.rows) * 2.4 - 1.2;
            file.extend((0..WIDTH).map(|column| shade(f64::from(column) / f64::from(WIDTH) * 3.0 - 2.2, y)));
        }
        file
    }
}

fn shade(x: f64, y: f64) -> u8 {
    let (mut a, mut b) = (0.0, 0.0);
    for i in 0..ITERATIONS {
        if a * a + b * b > 4.0 {
            return (255 - i.min(255)) as u8;
        }
        (a, b) = (a * a - b * b + x, 2.0 * a * b + y);
    }
    0
}
