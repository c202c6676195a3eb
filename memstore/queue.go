package memstore

// queue holds heads in the order in which they are due: a heap of which each
// node has four children, which is half as deep as one with two, and reads a
// node's children from one cache line. Most pushes are of what is due last and
// cost one comparison.
type queue []entry

type entry struct {
	due  int64
	head *head
}

const arity = 4

// first returns the head that is due first, if it is due by now.
func (q queue) first(now int64) *head {
	if len(q) == 0 || q[0].due > now {
		return nil
	}
	return q[0].head
}

func (q *queue) push(h *head) {
	h.pos = int32(len(*q))
	*q = append(*q, entry{h.due, h})
	q.up(int(h.pos))
}

// remove takes out a head that is in the queue.
func (q *queue) remove(h *head) {
	old := *q
	i, last := int(h.pos), len(old)-1
	moved := old[last]
	old[last] = entry{}
	*q = old[:last]
	if i == last {
		q.shrink()
		return
	}
	q.set(i, moved)
	q.fix(i)
	q.shrink()
}

// move gives a head that is in the queue its new place after its due changed.
func (q queue) move(h *head) {
	q[h.pos].due = h.due
	q.fix(int(h.pos))
}

// replace puts a head in the place of the one that it is a copy of.
func (q queue) replace(h *head) { q.set(int(h.pos), entry{h.due, h}) }

func (q queue) set(i int, e entry) {
	q[i] = e
	e.head.pos = int32(i)
}

func (q queue) fix(i int) {
	if !q.down(i) {
		q.up(i)
	}
}

func (q queue) up(i int) {
	e := q[i]
	for i > 0 {
		parent := (i - 1) / arity
		if q[parent].due <= e.due {
			break
		}
		q.set(i, q[parent])
		i = parent
	}
	q.set(i, e)
}

// down reports whether the entry moved.
func (q queue) down(i int) bool {
	e, from := q[i], i
	for {
		child := i*arity + 1
		if child >= len(q) {
			break
		}
		least := child
		for c := child + 1; c < min(child+arity, len(q)); c++ {
			if q[c].due < q[least].due {
				least = c
			}
		}
		if q[least].due >= e.due {
			break
		}
		q.set(i, q[least])
		i = least
	}
	q.set(i, e)
	return i != from
}

// shrink gives memory back once a queue has become a quarter of what it was.
func (q *queue) shrink() {
	if c := cap(*q); c > 256 && len(*q) < c/4 {
		*q = append(make(queue, 0, c/2), *q...)
	}
}
