//! Packet captures: pcap and pcapng in (through `pcap-parser`), pcap out.

use std::fmt;
use std::io::{self, Write};
use std::ops::Range;
use std::time::Duration;

use pcap_parser::nom;
use pcap_parser::pcapng::Block;
use pcap_parser::traits::PcapNGPacketBlock;
use pcap_parser::{
    InterfaceDescriptionBlock, LegacyPcapBlock, Linktype, PcapError, PcapHeader, parse_block_be,
    parse_block_le, parse_pcap_frame, parse_pcap_frame_be, parse_pcap_frame_modified,
    parse_pcap_header,
};

/// No capture format allows a longer record; a longer one is a corrupt length.
const MAX_RECORD: usize = 256 * 1024;
/// First bytes of a pcapng file, whatever its byte order.
const PCAPNG_MAGIC: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];

/// A capture in memory.
#[derive(Debug)]
pub struct Capture {
    file: Vec<u8>,
    frames: Vec<Frame>,
}

/// A frame of a capture.
#[derive(Clone, Debug)]
struct Frame {
    bytes: Range<usize>,
    timestamp: Duration,
}

/// A capture that can't be read, and where.
#[derive(Debug, PartialEq, Eq)]
pub struct CaptureError {
    /// Number of the packet expected there, from 1; 0 in the file's header.
    packet: usize,
    byte: usize,
    problem: Problem,
}

#[derive(Debug, PartialEq, Eq)]
enum Problem {
    Empty,
    UnknownFormat,
    Truncated,
    Corrupt,
    NotEthernet(i32),
    UnknownInterface(u32),
}

impl fmt::Display for CaptureError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.packet > 0 {
            write!(f, "packet {} at ", self.packet)?;
        }
        write!(f, "byte {}: {}", self.byte, self.problem)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("the file is empty"),
            Self::UnknownFormat => f.write_str("neither pcap nor pcapng"),
            Self::Truncated => f.write_str("truncated: the file ends inside this record"),
            Self::Corrupt => f.write_str("corrupt: the record's lengths contradict each other"),
            Self::NotEthernet(link) => write!(f, "link type {link} is not Ethernet (1)"),
            Self::UnknownInterface(id) => write!(f, "corrupt: there is no interface {id}"),
        }
    }
}

impl Capture {
    /// Reads a pcap or pcapng file.
    pub fn parse(file: Vec<u8>) -> Result<Self, CaptureError> {
        let mut reader = Reader { file: &file, at: 0, frames: Vec::new() };
        if file.is_empty() {
            return Err(reader.error(Problem::Empty));
        } else if file.starts_with(&PCAPNG_MAGIC) {
            reader.read_pcapng()?;
        } else {
            reader.read_pcap()?;
        }
        let frames = reader.frames;
        Ok(Self { file, frames })
    }

    /// How many frames there are.
    pub fn len(&self) -> usize {
        self.frames.len()
    }

    /// The frames and when they were captured.
    pub fn frames(&self) -> impl Iterator<Item = (&[u8], Duration)> {
        self.frames.iter().map(|frame| (&self.file[frame.bytes.clone()], frame.timestamp))
    }
}

/// Walks over a file, keeping the position for errors.
struct Reader<'f> {
    file: &'f [u8],
    at: usize,
    frames: Vec<Frame>,
}

/// What the blocks of a pcapng section refer to.
struct Section {
    big_endian: bool,
    interfaces: Vec<Interface>,
}

/// An interface of a section: where the timestamps start, and their units per second.
struct Interface {
    offset: i64,
    resolution: u64,
}

type Parsed<'f, T> = nom::IResult<&'f [u8], T, PcapError<&'f [u8]>>;

impl<'f> Reader<'f> {
    fn read_pcap(&mut self) -> Result<(), CaptureError> {
        let (rest, header) = match parse_pcap_header(self.file) {
            Ok(parsed) => parsed,
            Err(nom::Err::Incomplete(_)) => return Err(self.error(Problem::Truncated)),
            Err(_) => return Err(self.error(Problem::UnknownFormat)),
        };
        self.require_ethernet(header.network)?;
        self.at = self.file.len() - rest.len();
        while self.at < self.file.len() {
            let (next, record) = self.parse(|input| pcap_record(&header, input))?;
            let fraction = u64::from(record.ts_usec);
            let fraction = if header.is_nanosecond_precision() {
                Duration::from_nanos(fraction)
            } else {
                Duration::from_micros(fraction)
            };
            let timestamp = Duration::from_secs(u64::from(record.ts_sec)) + fraction;
            self.push(record.data, timestamp);
            self.at = next;
        }
        Ok(())
    }

    fn read_pcapng(&mut self) -> Result<(), CaptureError> {
        let mut section = Section { big_endian: false, interfaces: Vec::new() };
        while self.at < self.file.len() {
            let parse = if section.big_endian { parse_block_be } else { parse_block_le };
            let (next, block) = self.parse(parse).map_err(|error| match error.problem {
                Problem::Truncated if self.holds_block(&section) => self.error(Problem::Corrupt),
                _ => error,
            })?;
            self.read_block(&block, &mut section)?;
            self.at = next;
        }
        Ok(())
    }

    fn read_block(&mut self, block: &Block<'f>, section: &mut Section) -> Result<(), CaptureError> {
        match block {
            Block::SectionHeader(header) => {
                *section = Section { big_endian: header.big_endian(), interfaces: Vec::new() };
            }
            Block::InterfaceDescription(interface) => {
                self.require_ethernet(interface.linktype)?;
                section.interfaces.push(self.interface(interface)?);
            }
            Block::EnhancedPacket(packet) => {
                let interface = section.interface(packet.if_id);
                let unknown = self.error(Problem::UnknownInterface(packet.if_id));
                let units = u64::from(packet.ts_high) << 32 | u64::from(packet.ts_low);
                self.push(packet.packet_data(), interface.ok_or(unknown)?.time(units));
            }
            Block::SimplePacket(packet) => {
                let last = self.frames.last().map_or(Duration::ZERO, |frame| frame.timestamp);
                self.push(packet.packet_data(), last);
            }
            _ => {} // names, statistics, secrets
        }
        Ok(())
    }

    /// Runs one of the library's parsers here; returns what it read and where it stopped.
    fn parse<T>(
        &self,
        parser: impl Fn(&'f [u8]) -> Parsed<'f, T>,
    ) -> Result<(usize, T), CaptureError> {
        let input = &self.file[self.at..];
        match parser(input) {
            Ok((rest, value)) => Ok((self.file.len() - rest.len(), value)),
            Err(nom::Err::Incomplete(nom::Needed::Size(missing)))
                if input.len().saturating_add(missing.get()) <= MAX_RECORD =>
            {
                Err(self.error(Problem::Truncated))
            }
            Err(_) => Err(self.error(Problem::Corrupt)),
        }
    }

    /// True if the pcapng block here is complete by its own account.
    fn holds_block(&self, section: &Section) -> bool {
        let input = &self.file[self.at..];
        let Some(&length) = input.get(4..).and_then(<[u8]>::first_chunk) else { return false };
        let read = if section.big_endian { u32::from_be_bytes } else { u32::from_le_bytes };
        usize::try_from(read(length)).is_ok_and(|length| length <= input.len())
    }

    /// Notes a frame; `data` is part of the file.
    fn push(&mut self, data: &[u8], timestamp: Duration) {
        let start = data.as_ptr().addr() - self.file.as_ptr().addr();
        self.frames.push(Frame { bytes: start..start + data.len(), timestamp });
    }

    fn interface(&self, block: &InterfaceDescriptionBlock<'_>) -> Result<Interface, CaptureError> {
        let exponent = u32::from(block.if_tsresol & 0x7f);
        let base: u64 = if block.if_tsresol & 0x80 == 0 { 10 } else { 2 };
        let resolution = base.checked_pow(exponent).ok_or(self.error(Problem::Corrupt))?;
        Ok(Interface { offset: block.if_tsoffset, resolution })
    }

    fn require_ethernet(&self, link: Linktype) -> Result<(), CaptureError> {
        if link == Linktype::ETHERNET {
            Ok(())
        } else {
            Err(self.error(Problem::NotEthernet(link.0)))
        }
    }

    fn error(&self, problem: Problem) -> CaptureError {
        let packet = if self.at == 0 { 0 } else { self.frames.len() + 1 };
        CaptureError { packet, byte: self.at, problem }
    }
}

impl Section {
    fn interface(&self, id: u32) -> Option<&Interface> {
        self.interfaces.get(usize::try_from(id).ok()?)
    }
}

impl Interface {
    /// Time of a packet stamped `units`.
    fn time(&self, units: u64) -> Duration {
        let seconds = (units / self.resolution).saturating_add_signed(self.offset);
        let fraction =
            u128::from(units % self.resolution) * 1_000_000_000 / u128::from(self.resolution);
        Duration::new(seconds, u32::try_from(fraction).unwrap_or(0))
    }
}

/// One record of a classic pcap file.
fn pcap_record<'f>(header: &PcapHeader, input: &'f [u8]) -> Parsed<'f, LegacyPcapBlock<'f>> {
    if header.is_modified_format() {
        parse_pcap_frame_modified(input)
    } else if header.is_bigendian() {
        parse_pcap_frame_be(input)
    } else {
        parse_pcap_frame(input)
    }
}

/// Writes a capture: classic pcap, Ethernet, nanoseconds.
pub struct CaptureWriter<W: Write> {
    out: W,
}

impl<W: Write> CaptureWriter<W> {
    /// Starts a capture.
    pub fn new(mut out: W) -> io::Result<Self> {
        let (magic, version_major, version_minor) = (0xa1b2_3c4d_u32, 2_u16, 4_u16);
        out.write_all(&magic.to_le_bytes())?;
        out.write_all(&version_major.to_le_bytes())?;
        out.write_all(&version_minor.to_le_bytes())?;
        let (zone, accuracy, longest, ethernet) = (0_u32, 0_u32, 65535_u32, 1_u32);
        for word in [zone, accuracy, longest, ethernet] {
            out.write_all(&word.to_le_bytes())?;
        }
        Ok(Self { out })
    }

    /// Writes one frame.
    pub fn write(&mut self, frame: &[u8], timestamp: Duration) -> io::Result<()> {
        let seconds = u32::try_from(timestamp.as_secs()).unwrap_or(u32::MAX);
        let length = u32::try_from(frame.len()).map_err(io::Error::other)?;
        for word in [seconds, timestamp.subsec_nanos(), length, length] {
            self.out.write_all(&word.to_le_bytes())?;
        }
        self.out.write_all(frame)
    }

    /// Writes out what is buffered.
    pub fn finish(mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A capture of these frames, one per second.
    pub fn pcap(frames: &[&[u8]]) -> Vec<u8> {
        let mut file = Vec::new();
        let mut writer = CaptureWriter::new(&mut file).expect("memory takes all");
        for (frame, second) in frames.iter().zip(1..) {
            let time = Duration::new(second, 5);
            writer.write(frame, time).expect("memory takes all");
        }
        writer.finish().expect("memory takes all");
        file
    }

    /// A pcapng file in `order`, with a resolution of 10^-9.
    fn pcapng(frames: &[&[u8]], order: fn(u32) -> [u8; 4]) -> Vec<u8> {
        let mut file = Vec::new();
        let mut block = |kind: u32, body: &[u8]| {
            let length = order(u32::try_from(12 + body.len()).expect("short"));
            file.extend([&order(kind), &length, body, &length].concat());
        };
        let version = if order(1)[0] == 1 { [1, 0, 0, 0] } else { [0, 1, 0, 0] };
        block(0x0a0d_0d0a, &[&order(0x1a2b_3c4d)[..], &version, &[0xff; 8]].concat());
        let short = |value: u8| {
            if order(1)[0] == 1 { [value, 0] } else { [0, value] }
        };
        let resolution = [&short(9)[..], &short(1), &[9, 0, 0, 0], &[0; 4]].concat();
        block(1, &[&short(1)[..], &[0; 6], &resolution].concat());
        for (frame, second) in frames.iter().zip(1_u64..) {
            let length = order(u32::try_from(frame.len()).expect("short"));
            let time = second * 1_000_000_000 + 5;
            let high = u32::try_from(time >> 32).expect("32 bits");
            let low = u32::try_from(time & 0xffff_ffff).expect("32 bits");
            let padding = vec![0; frame.len().next_multiple_of(4) - frame.len()];
            let head = [order(0), order(high), order(low), length, length].concat();
            block(6, &[&head, *frame, &padding].concat());
        }
        file
    }

    const FRAMES: [&[u8]; 3] = [b"first", b"", b"the third"];

    fn check(file: Vec<u8>) {
        let capture = Capture::parse(file).expect("a good file");
        let expected = FRAMES.into_iter().zip((1..).map(|second| Duration::new(second, 5)));
        assert!(capture.frames().eq(expected));
    }

    fn error(file: &[u8]) -> String {
        Capture::parse(file.to_vec()).expect_err("a bad file").to_string()
    }

    #[test]
    fn every_format_gives_the_same_frames() {
        check(pcap(&FRAMES));
        check(pcapng(&FRAMES, u32::to_le_bytes));
        check(pcapng(&FRAMES, u32::to_be_bytes));
    }

    #[test]
    fn big_endian_microseconds() {
        let mut file = Vec::new();
        for word in [0xa1b2_c3d4, 0x0002_0004, 0, 0, 65535, 1, 3, 999_999, 2, 2_u32] {
            file.extend(word.to_be_bytes());
        }
        file.extend(b"hi");
        let capture = Capture::parse(file).expect("a good file");
        assert!(capture.frames().eq([(&b"hi"[..], Duration::new(3, 999_999_000))]));
    }

    #[test]
    fn a_truncated_file_is_an_error_at_every_length() {
        for file in [pcap(&FRAMES), pcapng(&FRAMES, u32::to_le_bytes)] {
            for length in 0..file.len() {
                match Capture::parse(file[..length].to_vec()) {
                    Ok(capture) => assert!(capture.len() < FRAMES.len()),
                    Err(error) => assert!(error.byte <= length, "{error}"),
                }
            }
        }
    }

    #[test]
    fn errors_name_packet_and_byte() {
        let file = pcap(&FRAMES);
        let truncated = "truncated: the file ends inside this record";
        assert_eq!(error(b""), "byte 0: the file is empty");
        assert_eq!(error(b"#!/bin/sh"), "byte 0: neither pcap nor pcapng");
        assert_eq!(error(&file[..20]), format!("byte 0: {truncated}"));
        assert_eq!(error(&file[..file.len() - 1]), format!("packet 3 at byte 61: {truncated}"));

        let mut corrupt = file.clone();
        corrupt[24 + 8 + 2] = 0xff; // the first record's length
        let contradiction = "corrupt: the record's lengths contradict each other";
        assert_eq!(error(&corrupt), format!("packet 1 at byte 24: {contradiction}"));

        let mut wifi = file;
        wifi[20] = 105;
        assert_eq!(error(&wifi), "byte 0: link type 105 is not Ethernet (1)");
    }

    #[test]
    fn corrupt_pcapng_is_an_error() {
        let file = pcapng(&FRAMES, u32::to_le_bytes);
        let first_packet = file.len() - 3 * 32 - 8 - 12;
        assert_eq!(file[first_packet], 6);
        let at = format!("packet 1 at byte {first_packet}: corrupt");

        let mut interface = file.clone();
        interface[first_packet + 8] = 3;
        assert_eq!(error(&interface), format!("{at}: there is no interface 3"));
        let mut longer_than_its_block = file.clone();
        longer_than_its_block[first_packet + 21] = 1;
        assert!(error(&longer_than_its_block).starts_with(&at));
    }

    #[test]
    fn no_flipped_bit_panics() {
        for file in [pcap(&FRAMES), pcapng(&FRAMES, u32::to_be_bytes)] {
            for bit in 0..file.len() * 8 {
                let mut flipped = file.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                let _ = Capture::parse(flipped);
            }
        }
    }
}
