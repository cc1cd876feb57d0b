// A Go program that checks itself: WORKLOAD STOP. See ../workloads.c for what it prints.
package main

import (
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

var stopFile string

func stopped() bool {
	_, err := os.Stat(stopFile)
	return err == nil
}

func broken(format string, values ...any) {
	fmt.Printf("broken "+format+"\n", values...)
	os.Exit(1)
}

// pause sleeps and looks at the clock.
func pause(d time.Duration) {
	start := time.Now()
	time.Sleep(d)
	if passed := time.Since(start); passed < d {
		broken("a sleep of %v took %v", d, passed)
	}
}

// idle has many goroutines that wait for one that wakes up now and then.
func idle() int64 {
	gates := make(chan int)
	results := make(chan int)
	for i := 0; i < 100; i++ {
		go func() {
			for n := range gates {
				results <- n * n
			}
		}()
	}
	var rounds int64
	for !stopped() {
		pause(150 * time.Millisecond)
		n := int(rounds % 1000)
		gates <- n
		if got := <-results; got != n*n {
			broken("%d squared is not %d", n, got)
		}
		rounds++
	}
	return rounds
}

// ticking has tickers of several periods, none of which may tick more often than time allows.
func ticking() int64 {
	var ticks atomic.Int64
	var all sync.WaitGroup
	for i := 1; i <= 8; i++ {
		period := time.Duration(i) * 2 * time.Millisecond
		all.Add(1)
		go func() {
			defer all.Done()
			start, count := time.Now(), int64(0)
			ticker := time.NewTicker(period)
			defer ticker.Stop()
			for range ticker.C {
				count++
				ticks.Add(1)
				if most := int64(time.Since(start) / period); count > most {
					broken("%d ticks of %v, at most %d", count, period, most)
				}
				if count%16 == 0 && stopped() {
					return
				}
			}
		}()
	}
	all.Wait()
	return ticks.Load()
}

type node struct {
	left, right *node
	value       int
}

func grow(depth int) *node {
	if depth == 0 {
		return &node{value: 1}
	}
	return &node{grow(depth - 1), grow(depth - 1), 1}
}

func (n *node) sum() int {
	if n == nil {
		return 0
	}
	return n.value + n.left.sum() + n.right.sum()
}

// busy computes and makes garbage on every processor, and never waits.
func busy() int64 {
	var rounds atomic.Int64
	var all sync.WaitGroup
	for i := 0; i < 4; i++ {
		all.Add(1)
		go func() {
			defer all.Done()
			data := make([]byte, 64<<10)
			expected := sha256.Sum256(data)
			for !stopped() {
				if sha256.Sum256(data) != expected {
					broken("another digest of the same data")
				}
				if got := grow(12).sum(); got != 1<<13-1 {
					broken("a tree of %d", got)
				}
				rounds.Add(1)
			}
		}()
	}
	all.Wait()
	return rounds.Load()
}

// server is asked by clients of its own, who compare every byte.
func server() int64 {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		broken("listen: %v", err)
	}
	handler := func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			broken("read a request: %v", err)
		}
		fmt.Fprintf(w, "%x", sha256.Sum256(body))
	}
	go http.Serve(listener, http.HandlerFunc(handler))
	url := "http://" + listener.Addr().String()
	var rounds atomic.Int64
	var all sync.WaitGroup
	for i := int64(0); i < 4; i++ {
		all.Add(1)
		go func(seed int64) {
			defer all.Done()
			random := rand.New(rand.NewSource(seed))
			client := &http.Client{Timeout: time.Minute}
			for !stopped() {
				body := make([]byte, random.Intn(200<<10))
				random.Read(body)
				reader := &counted{data: body}
				response, err := client.Post(url, "application/octet-stream", reader)
				if err != nil {
					broken("request: %v", err)
				}
				answer, err := io.ReadAll(response.Body)
				response.Body.Close()
				if err != nil || string(answer) != fmt.Sprintf("%x", sha256.Sum256(body)) {
					broken("answer %q, %v", answer, err)
				}
				rounds.Add(1)
				pause(time.Duration(random.Intn(5)) * time.Millisecond)
			}
		}(i)
	}
	all.Wait()
	return rounds.Load()
}

// counted makes requests chunked: its length is not known before its end.
type counted struct {
	data []byte
	done int
}

func (c *counted) Read(buffer []byte) (int, error) {
	if c.done == len(c.data) {
		return 0, io.EOF
	}
	n := copy(buffer, c.data[c.done:])
	c.done += n
	return n, nil
}

func main() {
	workloads := map[string]func() int64{
		"idle": idle, "ticking": ticking, "busy": busy, "http": server,
	}
	stopFile = os.Args[2]
	fmt.Println("ready")
	fmt.Println("whole", workloads[os.Args[1]]())
}
