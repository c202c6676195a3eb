package filestore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// mark is a small file beside the engine's log. After each group has been
// synced the number of the last batch in it is written there, without a sync of
// its own: so what the file says after a crash may be less than what was
// acknowledged, and is never more. An engine that comes back with fewer batches
// than that has lost some, whatever it says itself: it takes any bad record for
// the end of its log (trap 66).
//
// The file has three slots in blocks of their own. Two take turns. A power cut
// may leave both of them half written; the third is written, with a sync, only
// when the other two have been synced.
type mark struct {
	f    vfs.File
	turn int
}

const (
	markName  = "mark"
	markMagic = "idemmrk1"
	markBlock = 4096
	markSlots = 3
	slotLen   = len(markMagic) + 8 + 8 + 4
)

// marked is what a mark says.
type marked struct {
	// batches is how many batches were synced.
	batches int64
	// epoch is that of the opening which wrote it.
	epoch uint64
}

func (m marked) append(b []byte) []byte {
	start := len(b)
	b = append(b, markMagic...)
	b = binary.LittleEndian.AppendUint64(b, uint64(m.batches))
	b = binary.LittleEndian.AppendUint64(b, m.epoch)
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b[start:], castagnoli()))
}

func decodeMarked(b []byte) (marked, bool) {
	sumAt := slotLen - 4
	if len(b) < slotLen || string(b[:len(markMagic)]) != markMagic ||
		crc32.Checksum(b[:sumAt], castagnoli()) != binary.LittleEndian.Uint32(b[sumAt:]) {
		return marked{}, false
	}
	b = b[len(markMagic):]
	return marked{int64(binary.LittleEndian.Uint64(b)), binary.LittleEndian.Uint64(b[8:])}, true
}

var errNoMark = errors.New("none of its slots can be read")

// readMark returns the most that any slot says.
func readMark(fs vfs.FS, path string) (marked, error) {
	f, err := fs.Open(path)
	if err != nil {
		return marked{}, err
	}
	defer f.Close()
	var best marked
	found := false
	for i := range markSlots {
		var b [slotLen]byte
		n, err := f.ReadAt(b[:], int64(i*markBlock))
		if err != nil && !errors.Is(err, io.EOF) {
			return marked{}, err
		}
		if m, ok := decodeMarked(b[:n]); ok && (!found || m.batches > best.batches) {
			best, found = m, true
		}
	}
	if !found {
		return marked{}, errNoMark
	}
	return best, nil
}

// openMark opens the file for writing, and makes it if it is not there.
func openMark(fs vfs.FS, path string) (*mark, error) {
	f, err := fs.OpenReadWrite(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return nil, fmt.Errorf("filestore: open the mark: %w", err)
	}
	return &mark{f: f}, nil
}

func (m *mark) write(slot int, w marked) error {
	var b [slotLen]byte
	_, err := m.f.WriteAt(w.append(b[:0]), int64(slot*markBlock))
	return err
}

// set writes the mark into the next slot.
func (m *mark) set(w marked) error {
	m.turn ^= 1
	return m.write(m.turn, w)
}

// reset writes and syncs all slots, so that one of them can be read whenever
// the power fails.
func (m *mark) reset(w marked) error {
	for _, slots := range [][]int{{0, 1}, {2}} {
		for _, slot := range slots {
			if err := m.write(slot, w); err != nil {
				return fmt.Errorf("filestore: write the mark: %w", err)
			}
		}
		if err := m.f.Sync(); err != nil {
			return fmt.Errorf("filestore: sync the mark: %w", err)
		}
	}
	return nil
}

func (m *mark) close() error { return m.f.Close() }
