//! The terminal: taken, drawn on, and given back as it was, however this ends.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossterm::cursor::{Hide, MoveTo, Show};
use crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use crossterm::style::{Attribute, Color, Print, ResetColor, SetAttribute, SetForegroundColor};
use crossterm::terminal::{
    BeginSynchronizedUpdate, Clear, ClearType, DisableLineWrap, EnableLineWrap, EndSynchronizedUpdate,
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use crossterm::{execute, queue};

use crate::view::{Line, Look};

/// How soon news are drawn.
const TICK: Duration = Duration::from_millis(100);

/// Whether the terminal has to be given back.
static TAKEN: AtomicBool = AtomicBool::new(false);

pub(crate) enum Input {
    Quit,
    /// There are news, or the terminal has another size.
    Redraw,
}

/// Columns and lines.
pub(crate) fn size() -> io::Result<(usize, usize)> {
    crossterm::terminal::size().map(|(width, height)| (width.into(), height.into()))
}

pub(crate) struct Screen(());

impl Screen {
    pub(crate) fn enter() -> io::Result<Screen> {
        let told = std::panic::take_hook();
        // The message would be lost with the alternate screen.
        std::panic::set_hook(Box::new(move |panic| {
            restore();
            told(panic);
        }));
        restore_on_signals();
        enable_raw_mode()?;
        TAKEN.store(true, Ordering::Relaxed);
        // From here on dropping it gives the terminal back.
        let screen = Screen(());
        execute!(io::stdout(), EnterAlternateScreen, DisableLineWrap, Hide)?;
        Ok(screen)
    }

    /// What is too much for the terminal is cut off, also when it became smaller a moment ago.
    pub(crate) fn draw(&mut self, lines: &[Line], stale: bool) -> io::Result<()> {
        let mut out = io::stdout().lock();
        queue!(out, BeginSynchronizedUpdate)?;
        let (_, height) = size()?;
        for (y, line) in (0u16..).zip(lines.iter().take(height)) {
            queue!(out, MoveTo(0, y), Clear(ClearType::CurrentLine))?;
            match line.look {
                Look::Title => queue!(out, SetAttribute(Attribute::Bold))?,
                Look::Alarm if !stale => queue!(out, SetForegroundColor(Color::Red))?,
                Look::Trouble => queue!(out, SetForegroundColor(Color::Yellow))?,
                Look::Faint => queue!(out, SetAttribute(Attribute::Dim))?,
                Look::Alarm | Look::Plain if stale => queue!(out, SetAttribute(Attribute::Dim))?,
                Look::Alarm | Look::Plain => {}
            }
            queue!(out, Print(&line.text), SetAttribute(Attribute::Reset), ResetColor)?;
        }
        if lines.len() < height {
            queue!(out, MoveTo(0, lines.len() as u16), Clear(ClearType::FromCursorDown))?;
        }
        queue!(out, EndSynchronizedUpdate)?;
        out.flush()
    }

    /// Until a key ends it, or there is something else to draw.
    pub(crate) fn wait(&mut self, has_news: impl Fn() -> bool) -> io::Result<Input> {
        while !has_news() {
            if !event::poll(TICK)? {
                continue;
            }
            match event::read()? {
                Event::Key(key) if key.kind == KeyEventKind::Press => match key.code {
                    KeyCode::Char('q') | KeyCode::Esc => return Ok(Input::Quit),
                    // Raw mode makes a key of it.
                    KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return Ok(Input::Quit),
                    _ => {}
                },
                Event::Resize(..) => return Ok(Input::Redraw),
                _ => {}
            }
        }
        Ok(Input::Redraw)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        restore();
    }
}

/// Once: leaving the alternate screen moves the cursor, over what a panic has said meanwhile.
fn restore() {
    if !TAKEN.swap(false, Ordering::Relaxed) {
        return;
    }
    let _ = execute!(io::stdout(), Show, EnableLineWrap, LeaveAlternateScreen);
    let _ = disable_raw_mode();
}

/// `kill`, and a terminal that is closed.
fn restore_on_signals() {
    #[cfg(unix)]
    std::thread::spawn(|| {
        use tokio::signal::unix::{SignalKind, signal};
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
        runtime.block_on(async {
            let (Ok(mut term), Ok(mut hangup)) = (signal(SignalKind::terminate()), signal(SignalKind::hangup())) else {
                return;
            };
            tokio::select! { _ = term.recv() => {}, _ = hangup.recv() => {} }
            restore();
            std::process::exit(1);
        });
    });
}
