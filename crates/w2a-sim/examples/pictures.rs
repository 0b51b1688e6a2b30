//! Draws every task as the agent camera sees it, at the start and at the end of the expert's episode.
//!
//! `cargo run --release -p w2a-sim --example pictures -- DIR`: `DIR/<task>.png`, start and end side by side, and
//! `DIR/observations.png`, one row of 64x64 agent and wrist images along an episode, enlarged, and `DIR/README.md`, which
//! says what each picture shows.

use std::path::Path;

use w2a_sim::{Environment, Expert, IMAGE_SIZE, Range, Scene, Split, Suite, Tabletop, View, record, tasks};

const SIZE: usize = 256;
const GAP: usize = 8;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args().nth(1).ok_or("usage: pictures DIR")?;
    let folder = Path::new(&folder);
    std::fs::create_dir_all(folder)?;
    let mut index = String::from(
        "# The tasks of the tabletop benchmark\n\nDrawn by the simulator itself, start and end of the scripted expert's \
         episode:\n`cargo run --release -p w2a-sim --example pictures -- docs/tasks`\n",
    );
    for suite in Suite::TABLETOP {
        index += &format!("\n## {suite}\n\n| id | instruction | start and end |\n|---|---|---|\n");
        for (task, info) in tasks(suite).into_iter().enumerate() {
            let scene = Scene::new(suite, task, Split::Train, Range::Full, 1)?;
            let mut table = Tabletop::new(1);
            table.reset(&[scene])?;
            let start = table.render(0, View::Agent, SIZE)?;
            let mut expert = Expert::new(&scene, 0);
            for step in 0..info.demo_steps {
                let action = expert.action(&table.privileged(0)?, step);
                table.step(&action)?;
            }
            let end = table.render(0, View::Agent, SIZE)?;
            let mut sheet = Sheet::new(2, 1, SIZE);
            sheet.put(0, 0, &start, SIZE);
            sheet.put(1, 0, &end, SIZE);
            sheet.save(&folder.join(format!("{}.png", info.name)))?;
            index +=
                &format!("| `{suite}/{task}` | {} | ![{}]({}.png) |\n", info.instruction, info.instruction, info.name);
        }
    }
    index += "\n## What the policy sees\n\nAgent and wrist camera, 64x64, every eighth step of one episode \
              (enlarged twice):\n\n![observations along an episode](observations.png)\n";
    std::fs::write(folder.join("README.md"), index)?;
    let recording = record(Scene::new(Suite::Object, 0, Split::Train, Range::Full, 1)?, 0)?;
    let mut sheet = Sheet::new(8, 2, 2 * IMAGE_SIZE);
    for column in 0..8 {
        for (row, camera) in recording.episode.cameras.iter().enumerate() {
            sheet.put(column, row, camera.frame(column * 8 + 4), IMAGE_SIZE);
        }
    }
    sheet.save(&folder.join("observations.png"))?;
    Ok(())
}

/// A grid of square pictures on white.
struct Sheet {
    columns: usize,
    rows: usize,
    cell: usize,
    rgb: Vec<u8>,
}

impl Sheet {
    fn new(columns: usize, rows: usize, cell: usize) -> Self {
        let mut sheet = Self { columns, rows, cell, rgb: Vec::new() };
        sheet.rgb = vec![255; sheet.width() * sheet.height() * 3];
        sheet
    }

    fn width(&self) -> usize {
        self.columns * (self.cell + GAP) - GAP
    }

    fn height(&self) -> usize {
        self.rows * (self.cell + GAP) - GAP
    }

    /// Puts a picture of `size` pixels into a cell, enlarged by repeating pixels.
    fn put(&mut self, column: usize, row: usize, picture: &[u8], size: usize) {
        let width = self.width();
        for y in 0..self.cell {
            for x in 0..self.cell {
                let from = (y * size / self.cell * size + x * size / self.cell) * 3;
                let to = ((row * (self.cell + GAP) + y) * width + column * (self.cell + GAP) + x) * 3;
                self.rgb[to..to + 3].copy_from_slice(&picture[from..from + 3]);
            }
        }
    }

    fn save(&self, path: &Path) -> Result<(), Box<dyn std::error::Error>> {
        let file = std::io::BufWriter::new(std::fs::File::create(path)?);
        let mut encoder = png::Encoder::new(file, self.width() as u32, self.height() as u32);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_compression(png::Compression::High);
        encoder.write_header()?.write_image_data(&self.rgb)?;
        Ok(())
    }
}
