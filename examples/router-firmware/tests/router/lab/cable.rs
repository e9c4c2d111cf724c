//! A cable to one of the router's cards: a UDP socket, one datagram a frame.

use std::{
    net::{SocketAddr, UdpSocket},
    sync::mpsc::{Receiver, channel},
    thread,
};

use super::emulator::PATIENCE;

/// Our end of a cable.
pub struct Cable {
    socket: UdpSocket,
    router: SocketAddr,
    frames: Receiver<Vec<u8>>,
    /// Frames sent so far.
    pub sent: u64,
    /// Frames received so far.
    pub received: u64,
}

impl Cable {
    /// A cable whose other end will be a port of this machine that nobody uses.
    pub fn new() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        let router = UdpSocket::bind("127.0.0.1:0").and_then(|free| free.local_addr());
        let (send, frames) = channel();
        let reader = socket.try_clone().expect("a second handle");
        thread::spawn(move || {
            let mut buffer = [0; 2048];
            while let Ok(len) = reader.recv(&mut buffer) {
                if send.send(buffer[..len].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self { socket, router: router.expect("a free port"), frames, sent: 0, received: 0 }
    }

    /// What the emulator needs to know: this end, and the other end's port.
    pub fn ends(&self) -> (&UdpSocket, u16) {
        (&self.socket, self.router.port())
    }

    /// Sends a frame.
    pub fn send(&mut self, frame: &[u8]) {
        let sent = self.socket.send_to(frame, self.router).expect("a socket takes a frame");
        assert_eq!(sent, frame.len());
        self.sent += 1;
    }

    /// The next frame from the router.
    pub fn receive(&mut self) -> Vec<u8> {
        let frame = self.frames.recv_timeout(PATIENCE).expect("a frame from the router");
        self.received += 1;
        frame
    }
}
