package memstore

// queue holds heads in the order in which they are due: a heap of which each
// node has four children, which is half as deep as one with two, and reads a
// node's children from one cache line.
type queue struct {
	entries []entry
	// latest is no earlier than any due in the queue. Most heads come with a later
	// one: they go to the end without a look at what is before them.
	latest int64
}

type entry struct {
	due  int64
	head *head
}

const arity = 4

// first returns the head that is due first, if it is due by now.
func (q *queue) first(now int64) *head {
	if len(q.entries) == 0 || q.entries[0].due > now {
		return nil
	}
	return q.entries[0].head
}

func (q *queue) len() int { return len(q.entries) }

func (q *queue) push(h *head) {
	h.pos = int32(len(q.entries))
	q.entries = append(q.entries, entry{h.due, h})
	if h.due >= q.latest {
		q.latest = h.due
		return
	}
	q.up(int(h.pos))
}

// remove takes out a head that is in the queue.
func (q *queue) remove(h *head) {
	i, last := int(h.pos), len(q.entries)-1
	moved := q.entries[last]
	q.entries[last] = entry{}
	q.entries = q.entries[:last]
	if i != last {
		q.set(i, moved)
		q.fix(i)
	}
	q.shrink()
}

// move gives a head that is in the queue its new place after its due changed.
func (q *queue) move(h *head) {
	q.entries[h.pos].due = h.due
	q.latest = max(q.latest, h.due)
	q.fix(int(h.pos))
}

// replace puts a head in the place of the one that it is a copy of.
func (q *queue) replace(h *head) { q.set(int(h.pos), entry{h.due, h}) }

func (q *queue) set(i int, e entry) {
	q.entries[i] = e
	e.head.pos = int32(i)
}

func (q *queue) fix(i int) {
	if !q.down(i) {
		q.up(i)
	}
}

func (q *queue) up(i int) {
	e := q.entries[i]
	for i > 0 {
		parent := (i - 1) / arity
		if q.entries[parent].due <= e.due {
			break
		}
		q.set(i, q.entries[parent])
		i = parent
	}
	q.set(i, e)
}

// down reports whether the entry moved.
func (q *queue) down(i int) bool {
	e, from := q.entries[i], i
	for {
		child := i*arity + 1
		if child >= len(q.entries) {
			break
		}
		least := child
		for c := child + 1; c < min(child+arity, len(q.entries)); c++ {
			if q.entries[c].due < q.entries[least].due {
				least = c
			}
		}
		if q.entries[least].due >= e.due {
			break
		}
		q.set(i, q.entries[least])
		i = least
	}
	q.set(i, e)
	return i != from
}

// shrink gives memory back once a queue has become a quarter of what it was.
func (q *queue) shrink() {
	if len(q.entries) == 0 {
		q.latest = 0
	}
	if c := cap(q.entries); c > 256 && len(q.entries) < c/4 {
		q.entries = append(make([]entry, 0, c/2), q.entries...)
	}
}
