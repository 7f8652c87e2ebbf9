// What a page shows, kept true: one question a second, answered by differences (see live.py).
window.quip = (() => {
  const values = {}, told = {};                         // of live parts by name: what there is, whom to tell of it
  const chosen = () => document.querySelector('[role=tab][aria-selected=true]')?.textContent.trim() || '';

  function applied(old, [kind, ...how]) {
    if (kind === 'text') {
      const [head, tail, middle] = how;
      return old.slice(0, head) + middle + old.slice(old.length - tail);
    }
    if (kind === 'value') return how[0];
    const items = Array.isArray(old) ? [...old] : {...old};  // what has not changed keeps its identity
    for (const [key, change] of Object.entries(how[0])) items[key] = applied(items[key], change);
    return items;
  }

  // The children of `now` become those of `next`; what is alike stays, with its focus, selection and scroll position.
  function become(now, next) {
    const a = [...now.childNodes], b = [...next.childNodes], least = Math.min(a.length, b.length);
    let head = 0, tail = 0;
    while (head < least && a[head].isEqualNode(b[head])) head++;
    while (tail < least - head && a.at(-1 - tail).isEqualNode(b.at(-1 - tail))) tail++;
    const end = a[a.length - tail] || null, old = a.slice(head, a.length - tail);
    b.slice(head, b.length - tail).forEach((node, i) => {
      if (!old[i]) now.insertBefore(node, end);
      else if (old[i].nodeName !== node.nodeName) old[i].replaceWith(node);
      else if (node.nodeType !== Node.ELEMENT_NODE) old[i].data = node.data;
      else alike(old[i], node);
    });
    old.slice(b.length - tail - head).forEach(node => node.remove());
  }
  function alike(now, next) {
    for (const {name} of [...now.attributes]) if (!next.hasAttribute(name)) now.removeAttribute(name);
    for (const {name, value} of next.attributes) if (now.getAttribute(name) !== value) now.setAttribute(name, value);
    become(now, next);
  }

  return {
    part(name) {                                        // in place of Gradio's `props` and `watch`
      const mine = told[name] = [];                     // one that is mounted anew takes the place of the former
      return {props: {get value() { return values[name] ?? ''; }}, watch: (_, tell) => void mine.push(tell)};
    },
    markup(element, html) {
      const next = document.createElement('template');
      next.innerHTML = html;
      become(element, next.content);
    },
    start(server, trigger, props, watch) {
      let number = 0, asking = false, again = false, timer;
      async function look() {
        clearTimeout(timer);
        if (!props.value || document.hidden) return;
        if (asking) return void (again = true);
        asking = true;
        const answer = await server.look({page: props.value.split(' ')[0], number, tab: chosen()});
        asking = false;
        if (answer) take(answer);
        timer = setTimeout(look, again ? 0 : 1000);
        again = false;
      }
      function take(answer) {
        number = answer.number;
        for (const [name, change] of Object.entries(answer.changes)) values[name] = applied(values[name], change);
        for (const tell of Object.keys(answer.changes).flatMap(name => told[name] || []))
          try { tell(); } catch (error) { reportError(error); }
        if (answer.ring) trigger('ring');
      }
      let tab = chosen();
      new MutationObserver(() => { if (tab !== chosen()) { tab = chosen(); look(); } })
        .observe(document.body, {subtree: true, attributeFilter: ['aria-selected']});
      document.addEventListener('visibilitychange', look);
      watch('value', look);                             // Gradio has told who we are, or that something was chosen
      look();
    },
  };
})();
