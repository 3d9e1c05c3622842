-- Health of Automations, Schedules and Reprocessings for Argo CD; docs/gitops.md says where it goes.
local hs = {}
local spec = obj.spec or {}
local status = obj.status or {}

local function condition(type)
  for _, each in ipairs(status.conditions or {}) do
    if each.type == type then
      return each
    end
  end
  return nil
end

local function holds(type)
  local found = condition(type)
  return found ~= nil and found.status == "True"
end

-- What a condition says, behind its reason.
local function words(type)
  local found = condition(type)
  if found == nil then
    return ""
  end
  if found.message == nil or found.message == "" then
    return found.reason or ""
  end
  return (found.reason or "") .. ": " .. found.message
end

local function answer(health, message)
  hs.status = health
  hs.message = message
  return hs
end

-- Awaiting a person is no fault: an application with such a Reprocessing is Suspended, not Degraded.
local function reprocessing()
  local phase = status.phase
  local plan = status.plan or {}
  local progress = status.progress or {}
  local done = tostring(progress.done or 0) .. " of " .. tostring(progress.total or plan.total or 0) .. " Runs"
  if phase == "Failure" then
    return answer("Degraded", "ended as Failure after " .. done)
  end
  if phase == "Finished" or phase == "Skipped" or phase == "Canceled" then
    return answer("Healthy", phase)
  end
  if holds("Stalled") or phase == "Stopped" then
    return answer("Degraded", words("Stalled"))
  end
  if phase == "PendingApproval" then
    return answer("Suspended", "awaits approval: " .. tostring(plan.total or 0) .. " Runs")
  end
  if spec.suspend then
    return answer("Suspended", "suspended after " .. done)
  end
  return answer("Progressing", (phase or "not planned yet") .. ", " .. done)
end

-- -1: nobody has looked at it yet.
local observed = status.observedGeneration or -1
if observed < (obj.metadata.generation or 1) then
  return answer("Progressing", "Maestro hasn't seen generation " .. tostring(obj.metadata.generation) .. " yet")
end
if obj.kind == "Reprocessing" then
  return reprocessing()
end
if holds("Stalled") then
  return answer("Degraded", words("Stalled"))
end
if holds("Reconciling") then
  return answer("Progressing", words("Reconciling"))
end
if spec.suspend or holds("Paused") then
  return answer("Suspended", words("Ready"))
end
if holds("Ready") then
  return answer("Healthy", words("Ready"))
end
return answer("Progressing", words("Ready"))
