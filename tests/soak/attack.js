// What a foreign page tries against the studio at `target`; gives what came of each attempt.
async target => {
  const tried = {};
  const attempt = async (name, make) => {
    try {
      const answer = await make();
      tried[name] = answer.type === 'opaque' ? 'sent' : `${answer.status} ${(await answer.text()).slice(0, 60)}`;
    } catch (e) {
      tried[name] = 'refused';
    }
  };
  const call = JSON.stringify({data: [], fn_index: 0, session_hash: 'evil'});
  for (const path of ['/config', '/', '/gradio_api/info', '/gradio_api/queue/data?session_hash=evil'])
    for (const mode of ['cors', 'no-cors'])
      await attempt(`GET ${path} ${mode}`, () => fetch(target + path,
        {mode, credentials: 'include', signal: AbortSignal.timeout(4000)}));
  for (const path of ['/gradio_api/run/predict', '/gradio_api/queue/join', '/gradio_api/cancel', '/gradio_api/reset'])
    for (const kind of ['application/json', 'text/plain'])
      for (const mode of ['cors', 'no-cors'])
        await attempt(`POST ${path} ${kind} ${mode}`, () => fetch(target + path,
          {method: 'POST', mode, credentials: 'include', headers: {'content-type': kind}, body: call}));
  const form = new FormData();
  form.append('files', new Blob(['evil-upload']), 'evil.txt');
  for (const mode of ['cors', 'no-cors'])
    await attempt(`upload ${mode}`, () => fetch(target + '/gradio_api/upload',
      {method: 'POST', mode, credentials: 'include', body: form}));
  const elements = [['img', '/pwa_icon'], ['img', '/gradio_api/queue/join'], ['script', '/config'], ['iframe', '/']];
  for (const [tag, path] of elements)
    await new Promise(done => {
      const e = document.createElement(tag);
      e.onload = () => { tried[`${tag} ${path}`] = e.naturalWidth ? 'shown' : 'loaded'; done(); };
      e.onerror = () => { tried[`${tag} ${path}`] = 'refused'; done(); };
      setTimeout(done, 3000);
      e.src = target + path;
      document.body.append(e);
    });
  tried.frame = document.querySelector('iframe').contentDocument ? 'read' : 'closed';
  return tried;
}
