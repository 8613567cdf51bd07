//! Charts of a few lines over time: SVG for pages, block characters for terminals.
//!
//! Just enough for what the house shows: panels one above the other that share the axis of time,
//! each with its own unit, linear or logarithmic. No dependency, no script in the picture, and the
//! same text for the same figures, so that a picture can be kept in a repository.

mod axis;

mod spark;

use std::fmt::Write as _;

use axis::Axis;
pub use spark::sparkline;

/// A picture: panels one above the other over the same time.
#[derive(Clone, Debug)]
pub struct Chart {
    /// What it shows.
    pub title: String,
    /// Where the axis of time ends, in seconds.
    pub seconds: f64,
    /// From top to bottom.
    pub panels: Vec<Panel>,
}

/// One quantity over time.
#[derive(Clone, Debug)]
pub struct Panel {
    /// What is drawn, with its unit.
    pub title: String,
    /// How values become heights.
    pub scale: Scale,
    /// One line each, in the same order in every panel: the colour goes with the place.
    pub series: Vec<Series>,
    /// A value to compare with, and what it is.
    pub mark: Option<(String, f64)>,
}

/// How values become heights.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Scale {
    /// From zero.
    Linear,
    /// By powers of ten; values of zero and below stand at the bottom.
    Log,
}

/// One line of a panel.
#[derive(Clone, Debug)]
pub struct Series {
    /// What the legend says.
    pub name: String,
    /// Values at the middles of equal parts of the time; `None` where there is nothing to show.
    pub points: Vec<Option<f64>>,
}

const WIDTH: f64 = 760.0;
/// Of the drawing area of a panel.
const HEIGHT: f64 = 190.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 16.0;
/// Above the first panel: title and legend.
const HEAD: f64 = 64.0;
/// Above each panel: its title; below it: the axis of time.
const ABOVE: f64 = 24.0;
const BELOW: f64 = 34.0;
/// Told apart by people who see colours differently (Okabe and Ito).
const COLOURS: [&str; 7] =
    ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"];

impl Chart {
    /// The picture as the text of an SVG file.
    #[must_use]
    pub fn svg(&self) -> String {
        let each = ABOVE + HEIGHT + BELOW;
        let height = HEAD + each * self.panels.len() as f64;
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
             font-family=\"sans-serif\" font-size=\"12\" fill=\"#222\">\n\
             <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#fff\"/>\n"
        );
        text(&mut out, LEFT, 24.0, "font-size=\"16\"", &self.title);
        self.legend(&mut out);
        for (i, panel) in self.panels.iter().enumerate() {
            let top = HEAD + each * i as f64 + ABOVE;
            panel.draw(&mut out, top, self.seconds);
        }
        out.push_str("</svg>\n");
        out
    }

    fn legend(&self, out: &mut String) {
        let mut x = LEFT;
        for (i, series) in self.panels.iter().take(1).flat_map(|panel| &panel.series).enumerate() {
            let colour = colour(i);
            // Writing to a string cannot fail, here and below.
            let _ =
                writeln!(out, "<path d=\"M{x:.0} 46h18\" stroke=\"{colour}\" stroke-width=\"3\"/>");
            text(out, x + 24.0, 50.0, "", &series.name);
            // Letters are not measured; this is wide enough for most.
            x += 24.0 + 7.5 * series.name.chars().count() as f64 + 18.0;
        }
    }
}

impl Panel {
    fn draw(&self, out: &mut String, top: f64, seconds: f64) {
        let values = self.series.iter().flat_map(|series| series.points.iter().copied().flatten());
        let values = values.chain(self.mark.iter().map(|(_, value)| *value));
        let axis = Axis::of(self.scale, values);
        let right = WIDTH - RIGHT;
        let y = |value: f64| top + HEIGHT * (1.0 - axis.place(value));
        text(out, LEFT, top - 8.0, "font-weight=\"bold\"", &self.title);
        for tick in axis.ticks() {
            let at = y(tick);
            let _ = writeln!(out, "<path d=\"M{LEFT} {at:.1}H{right}\" stroke=\"#ddd\"/>");
            text(out, LEFT - 6.0, at + 4.0, "text-anchor=\"end\"", &axis::label(tick));
        }
        let bottom = top + HEIGHT;
        for tick in Axis::of(Scale::Linear, [seconds].into_iter()).ticks() {
            if tick > seconds {
                continue;
            }
            let at = LEFT + (right - LEFT) * tick / seconds.max(f64::MIN_POSITIVE);
            let label = format!("{} s", axis::label(tick));
            text(out, at, bottom + 16.0, "text-anchor=\"middle\"", &label);
        }
        if let Some((name, value)) = &self.mark {
            let at = y(*value);
            let _ = writeln!(
                out,
                "<path d=\"M{LEFT} {at:.1}H{right}\" stroke=\"#666\" stroke-dasharray=\"5 4\"/>"
            );
            text(out, right - 4.0, at - 4.0, "text-anchor=\"end\" fill=\"#666\"", name);
        }
        for (i, series) in self.series.iter().enumerate() {
            let step = (right - LEFT) / series.points.len().max(1) as f64;
            let mut path = String::new();
            let mut pen_is_down = false;
            for (place, point) in series.points.iter().enumerate() {
                if let Some(value) = point.filter(|value| value.is_finite()) {
                    let to = if pen_is_down { 'L' } else { 'M' };
                    let x = LEFT + step * (place as f64 + 0.5);
                    let _ = write!(path, "{to}{x:.1} {:.1}", y(value));
                }
                pen_is_down = point.is_some();
            }
            let _ = writeln!(
                out,
                "<path d=\"{path}\" fill=\"none\" stroke=\"{}\" stroke-width=\"1.6\" \
                 stroke-linecap=\"round\"/>",
                colour(i)
            );
        }
    }
}

fn colour(place: usize) -> &'static str {
    COLOURS[place % COLOURS.len()]
}

fn text(out: &mut String, x: f64, y: f64, attributes: &str, words: &str) {
    let space = if attributes.is_empty() { "" } else { " " };
    let _ = write!(out, "<text x=\"{x:.1}\" y=\"{y:.1}\"{space}{attributes}>");
    for letter in words.chars() {
        match letter {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            // Not allowed in XML, not even escaped.
            control if control.is_control() => out.push(' '),
            other => out.push(other),
        }
    }
    out.push_str("</text>\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(points: Vec<Option<f64>>, scale: Scale) -> Chart {
        let series = vec![Series { name: "a<b>&\u{7}c".into(), points }];
        let panel = Panel { title: "wait, ms".into(), scale, series, mark: None };
        Chart { title: "t".into(), seconds: 30.0, panels: vec![panel] }
    }

    /// The path of the only series.
    fn path(chart: &Chart) -> String {
        let svg = chart.svg();
        let line = svg.lines().find(|line| line.contains("fill=\"none\"")).unwrap().to_owned();
        line.split('"').nth(1).unwrap().to_owned()
    }

    #[test]
    fn a_line_goes_through_its_points_and_has_gaps() {
        let cases = [
            (vec![Some(0.0), Some(10.0)], Scale::Linear, "M234.0 278.0L574.0 88.0"),
            (vec![Some(1.0), Some(10.0), Some(100.0)], Scale::Log, {
                "M177.3 278.0L404.0 183.0L630.7 88.0"
            }),
            (vec![Some(10.0), None, Some(0.0)], Scale::Linear, "M177.3 88.0M630.7 278.0"),
            (vec![], Scale::Linear, ""),
            (vec![None, Some(f64::NAN)], Scale::Log, ""),
        ];
        for (points, scale, expected) in cases {
            assert_eq!(path(&chart(points.clone(), scale)), expected, "{points:?} {scale:?}");
        }
    }

    #[test]
    fn names_cannot_break_the_file() {
        let svg = chart(vec![Some(1.0)], Scale::Linear).svg();
        assert!(svg.contains(">a&lt;b&gt;&amp; c</text>"), "{svg}");
        assert_eq!(svg.matches("<text").count(), svg.matches("</text>").count());
    }

    #[test]
    fn a_mark_is_inside_its_panel() {
        let mut chart = chart(vec![Some(1.0)], Scale::Linear);
        chart.panels[0].mark = Some(("capacity".into(), 100.0));
        assert!(chart.svg().contains("M64 88.0H744\" stroke=\"#666\""), "{}", chart.svg());
    }
}
