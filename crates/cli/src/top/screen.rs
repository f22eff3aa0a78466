//! The alternate screen of the terminal. The terminal is restored however the program ends.

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

use super::view::{Line, Style};

/// The interval at which the screen checks for an update to draw.
const TICK: Duration = Duration::from_millis(100);

/// True while the terminal is in raw mode on its alternate screen, and has to be restored.
static IS_ENTERED: AtomicBool = AtomicBool::new(false);

/// The reason why [`Screen::wait`] returned.
pub(crate) enum Input {
    Quit,
    /// There is an update to draw, or the terminal was resized.
    Redraw,
}

/// Returns the terminal's number of columns and lines.
pub(crate) fn size() -> io::Result<(usize, usize)> {
    crossterm::terminal::size().map(|(width, height)| (width.into(), height.into()))
}

/// The alternate screen of the terminal. Dropping it restores the terminal, as do a panic and a
/// signal that ends the process.
pub(crate) struct Screen(());

impl Screen {
    /// Switches the terminal to raw mode and its alternate screen.
    pub(crate) fn enter() -> io::Result<Screen> {
        let previous = std::panic::take_hook();
        // The panic's message would disappear together with the alternate screen.
        std::panic::set_hook(Box::new(move |panic| {
            restore();
            previous(panic);
        }));
        restore_on_signals()?;
        enable_raw_mode()?;
        IS_ENTERED.store(true, Ordering::Relaxed);
        // From here on the destructor restores the terminal, also when the next line fails.
        let screen = Screen(());
        execute!(io::stdout(), EnterAlternateScreen, DisableLineWrap, Hide)?;
        Ok(screen)
    }

    /// Draws as many lines as fit. The size is read again, since it may have changed since the
    /// lines were made.
    pub(crate) fn draw(&mut self, lines: &[Line], stale: bool) -> io::Result<()> {
        let mut out = io::stdout().lock();
        queue!(out, BeginSynchronizedUpdate)?;
        let (_, height) = size()?;
        for (y, line) in (0u16..).zip(lines.iter().take(height)) {
            queue!(out, MoveTo(0, y), Clear(ClearType::CurrentLine))?;
            match line.style {
                Style::Title => queue!(out, SetAttribute(Attribute::Bold))?,
                Style::Alarm if !stale => queue!(out, SetForegroundColor(Color::Red))?,
                Style::Notice => queue!(out, SetForegroundColor(Color::Yellow))?,
                Style::Faint => queue!(out, SetAttribute(Attribute::Dim))?,
                Style::Alarm | Style::Plain if stale => queue!(out, SetAttribute(Attribute::Dim))?,
                Style::Alarm | Style::Plain => {}
            }
            queue!(out, Print(&line.text), SetAttribute(Attribute::Reset), ResetColor)?;
        }
        if lines.len() < height {
            queue!(out, MoveTo(0, lines.len() as u16), Clear(ClearType::FromCursorDown))?;
        }
        queue!(out, EndSynchronizedUpdate)?;
        out.flush()
    }

    /// Waits for a key that quits, a resize, or an update to draw.
    pub(crate) fn wait(&mut self, has_update: impl Fn() -> bool) -> io::Result<Input> {
        while !has_update() {
            if !event::poll(TICK)? {
                continue;
            }
            match event::read()? {
                Event::Key(key) if key.kind == KeyEventKind::Press => match key.code {
                    KeyCode::Char('q') | KeyCode::Esc => return Ok(Input::Quit),
                    // In raw mode Ctrl-C is a key and not a signal.
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

/// Restores the terminal once. Leaving the alternate screen a second time would move the cursor
/// over the message of a panic.
fn restore() {
    if !IS_ENTERED.swap(false, Ordering::Relaxed) {
        return;
    }
    let _ = execute!(io::stdout(), Show, EnableLineWrap, LeaveAlternateScreen);
    let _ = disable_raw_mode();
}

/// Restores the terminal when the process is ended by a signal or the terminal is closed.
#[cfg(unix)]
fn restore_on_signals() -> io::Result<()> {
    use signal_hook::consts::{SIGHUP, SIGTERM};

    let mut signals = signal_hook::iterator::Signals::new([SIGHUP, SIGTERM])?;
    std::thread::spawn(move || {
        if signals.forever().next().is_some() {
            restore();
            std::process::exit(1);
        }
    });
    Ok(())
}

#[cfg(not(unix))]
fn restore_on_signals() -> io::Result<()> {
    Ok(())
}
